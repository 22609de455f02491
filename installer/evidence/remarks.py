"""What the lock notes beside its artifacts: what a person must judge, apart from facts on record. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from installer.kinds import debevidence, imagelist
from installer.lockfile import GATED, SIGNATURE, TERMS, Artifact, Lock


@dataclass(frozen=True)
class Remark:
    """One note, and how many files of the same model, image or package carry it."""

    kind: str
    name: str
    text: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Remarks:
    """``judge`` waits for a person's judgement: waivers, advice, and whatever this version does not know. ``record`` does not."""

    judge: tuple[Remark, ...]
    record: tuple[Remark, ...]


def of(lock: Lock) -> Remarks:
    """All notes of a lock, those that many files of one model share said once."""
    found: dict[bool, dict[tuple[str, str, str], list[str]]] = {True: {}, False: {}}
    for artifact in lock.artifacts:
        name = artifact.group if artifact.kind in ("models", "images") and artifact.group else artifact.name
        for note in artifact.notes:
            key = (artifact.kind, name, note)
            found[_is_record(artifact, note)].setdefault(key, []).append(artifact.path)
    judge, record = (tuple(Remark(*k, tuple(v)) for k, v in sorted(found[r].items())) for r in (False, True))
    return Remarks(judge, record)


def _is_record(artifact: Artifact, note: str) -> bool:
    """When the vendor signed its package index, whose signature of a model was checked, who accepted terms, what is carried unread.

    The first stands beside every `InRelease`: it says that the signature was checked when the packages were locked.
    """
    return debevidence.is_evidence(artifact) or note == imagelist.UNREAD or note.startswith((SIGNATURE, GATED, TERMS))
