"""A delta: the whole of a bundle's metadata, and only the files that the receiver lacks, or patches that make them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Signer

from engine import durable, metadata
from engine.copying import copy_target
from engine.errors import InputError
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from installer import medium
from installer.carry import patches
from installer.carry.compare import lacking
from installer.carry.patches import Patch
from installer.carry.patching import Patcher, last

HEADROOM = 16 << 20  # bytes, for metadata and the file system
COPIERS = 4


@dataclass(frozen=True)
class Delta:
    """What was written. Sizes in bytes.

    Attributes:
        files, size: all that is carried, patches too.
        replaced: bytes of the files that the patches stand for.
    """

    path: Path
    release: str
    files: int
    size: int
    whole: int
    patches: tuple[Patch, ...] = ()

    @property
    def replaced(self) -> int:
        return sum(p.target_size for p in self.patches)


@dataclass(frozen=True)
class Patching:
    """Makes patches, and the signers of their list."""

    patcher: Patcher
    signers: Sequence[Signer]


def write(
    bundle: Path,
    trusted: Trusted,
    out: Path,
    have: Iterable[str],
    report: Report | None = None,
    patching: Patching | None = None,
) -> Delta:
    """Write ``out`` with what is not among ``have``; the same signatures hold, for every file is still listed.

    Args:
        trusted: the verified metadata of ``bundle``.
        have: SHA-256 of what the receiver has.
        patching: how to carry patches in place of files; without it every file is carried whole.

    Raises:
        InputError: ``out`` exists.
        TrustError: a file of the bundle is not as signed.
        ResourceError: too little space.
    """
    report = report or Silent()
    if out.exists():
        raise InputError("it is there already", where=str(out), remedy="Name a directory that does not exist yet.")
    missing = lacking(trusted, have)
    staging = out.with_name(f".{out.name}.writing")
    with durable.disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        _require(medium.ask(out.parent), missing)
        try:
            patched = _patches(trusted, missing, staging, patching, report) if patching else ()
            made = {p.target for p in patched}
            missing = tuple(t for t in missing if t.sha256 not in made)
            _copy(bundle, trusted, missing, staging, report)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        staging.rename(out)
        durable.sync_dir(out.parent)
    size = sum(t.size for t in missing)
    report.end("delta")
    files, size = len(missing) + len(patched), size + sum(p.size for p in patched)
    return Delta(out, trusted.release, files, size, trusted.size, patched)


def _require(place: medium.Medium, missing: Sequence[Target]) -> None:
    files = {t.path: t.size for t in missing}
    place.require(
        files,
        remedy="Write the delta on another disk and carry it with `appliance split`, which cuts long files, or use a medium "
        "with another file system: exFAT takes files of any length.",
    )
    place.require_room(place.occupied(files) + HEADROOM, remedy="Free space, or name another place.")


def _copy(bundle: Path, trusted: Trusted, missing: Sequence[Target], staging: Path, report: Report) -> None:
    """The files, and the metadata as it was verified."""
    report.begin("delta", sum(t.size for t in missing))

    def one(target: Target) -> None:
        copy_target(bundle, target, staging / target.path, lambda n: report.advance("delta", n))

    with ThreadPoolExecutor(COPIERS) as workers:
        list(workers.map(one, missing))
    metadata.write(staging, {n: d for n, d in trusted.metadata.items() if n != metadata.PATCHES})


def _patches(
    trusted: Trusted, missing: Iterable[Target], staging: Path, patching: Patching, report: Report
) -> tuple[Patch, ...]:
    """Patches for the files that have a relative at the receiver, and their signed list."""
    tried = (patching.patcher.patch(t, staging, report) for t in last(missing))
    made = tuple(p for p in tried if p)
    if made:
        patches.write(staging, trusted, made, patching.signers)
    return made
