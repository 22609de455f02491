"""What a release changes against an earlier one, in the units that people know: packages, wheels, models, images, files. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from engine.trust import Trusted
from installer.carry import compare
from installer.evidence import spdx
from installer.kinds import debevidence
from installer.lockfile import KIND_ORDER, Artifact, Kind, Lock

WHAT = ("added", "changed", "removed")


@dataclass(frozen=True)
class Item:
    """One component on both sides. Versions are empty and sizes (bytes) 0 where it is absent; ``details`` name what differs."""

    what: str
    kind: str
    name: str
    before: str
    after: str
    old_size: int
    new_size: int
    licence: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """The step from an earlier release to a later one.

    Attributes:
        old, new: signed metadata of both.
        given: the reader named the earlier one; else it was found beside the later one.
        to_carry: bytes of files that a site with the earlier release lacks.
    """

    old: Trusted
    new: Trusted
    given: bool
    items: tuple[Item, ...]
    to_carry: int

    @property
    def back(self) -> bool:
        """Whether the one that is called earlier was signed later."""
        return self.old.version > self.new.version

    @property
    def relicensed(self) -> tuple[Item, ...]:
        """Components that are under another licence than before."""
        return tuple(i for i in self.items if "licence" in i.details)

    def counts(self) -> list[tuple[str, dict[str, int], int]]:
        """For each kind that changes: how many components by what happens to them, and by how many bytes the kind grows."""
        rows = []
        for kind in KIND_ORDER:
            mine = [i for i in self.items if i.kind == kind]
            if mine:
                counted = Counter(i.what for i in mine)
                rows.append((str(kind), {w: counted[w] for w in WHAT}, sum(i.new_size - i.old_size for i in mine)))
        return rows


def between(old: tuple[Trusted, Lock], new: tuple[Trusted, Lock], *, given: bool) -> Update:
    """The update from ``old`` to ``new``, each with its signed metadata and its lock."""
    carried = compare.difference(old[0], new[0]).to_carry
    return Update(old[0], new[0], given, tuple(items(old[1], new[1])), carried)


def items(old: Lock, new: Lock) -> list[Item]:
    """Components that differ, by kind in the order of the lock's kinds, then by name.

    A component is the same one by kind, group and name, whatever its version; a model or an image is one component with all its files.
    What vendors signed (package indexes) is no component.
    """
    before, after = components(old), components(new)
    order = {kind: n for n, kind in enumerate(KIND_ORDER)}
    found = []
    for key in sorted({*before, *after}, key=lambda k: (order[k[0]], k)):
        one, two = before.get(key, ()), after.get(key, ())
        details = _details(one, two) if one and two else ()
        if one and two and not details:
            continue
        what = "changed" if one and two else "added" if two else "removed"
        licence = " AND ".join(sorted({a.licence for a in two or one if a.licence}))
        sizes = (sum(a.size for a in one), sum(a.size for a in two))
        found.append(Item(what, key[0], key[2], version(one), version(two), *sizes, licence, details))
    return found


def components(lock: Lock) -> dict[tuple[Kind, str, str], tuple[Artifact, ...]]:
    """Artifacts by kind, group and name of the component that they belong to; in order of their paths."""
    found: dict[tuple[Kind, str, str], list[Artifact]] = {}
    for artifact in lock.artifacts:
        if debevidence.is_evidence(artifact):
            continue
        whole = artifact.kind in ("models", "images") and artifact.group
        key = (artifact.kind, "", artifact.group) if whole else (artifact.kind, artifact.group, artifact.name)
        found.setdefault(key, []).append(artifact)
    return {key: tuple(artifacts) for key, artifacts in found.items()}


def version(artifacts: tuple[Artifact, ...]) -> str:
    """The version of a component as people say it: its versions, or the beginning of its content's hash where it has none."""
    told = sorted({a.version for a in artifacts if a.version})
    return ", ".join(told) or (artifacts[0].sha256[:12] if artifacts else "")


def _details(one: tuple[Artifact, ...], two: tuple[Artifact, ...]) -> tuple[str, ...]:
    """What differs, in words."""
    sides = [
        {
            "version": {a.version for a in side},
            "content": {(a.path, a.sha256) if a.kind == "models" else ("", a.sha256) for a in side},
            "licence": {spdx.normalise(a.licence) or a.licence for a in side},  # two spellings of one are no change
            "source": {a.source for a in side},
        }
        for side in (one, two)
    ]
    differing = [k for k in sides[0] if sides[0][k] != sides[1][k]]
    # A new version comes from another address with other content; both matter where the version is the same.
    if "version" in differing:
        differing = [d for d in differing if d in ("version", "licence")]
    elif "content" in differing:
        differing = [d for d in differing if d != "source"]
    return tuple(differing)
