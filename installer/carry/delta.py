"""A delta: the whole of a bundle's metadata, and only the files that the receiver lacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.copying import copy_target
from engine.errors import InputError, ResourceError
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from installer.carry.compare import lacking

HEADROOM = 16 << 20  # bytes, for metadata and the file system
COPIERS = 4


@dataclass(frozen=True)
class Delta:
    """What was written. Sizes in bytes."""

    path: Path
    release: str
    files: int
    size: int
    whole: int


def write(bundle: Path, trusted: Trusted, out: Path, have: Iterable[str], report: Report | None = None) -> Delta:
    """Write ``out`` with what is not among ``have``; the same signatures hold, for every file is still listed.

    Args:
        trusted: the verified metadata of ``bundle``.
        have: SHA-256 of what the receiver has.

    Raises:
        InputError: ``out`` exists.
        TrustError: a file of the bundle is not as signed.
        ResourceError: too little space.
    """
    report = report or Silent()
    if out.exists():
        raise InputError("it is there already", where=str(out), remedy="Name a directory that does not exist yet.")
    missing = lacking(trusted, have)
    size = sum(t.size for t in missing)
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < size + HEADROOM:
        raise ResourceError(
            f"{size + HEADROOM - free} bytes too few are free",
            where=str(out.parent),
            remedy="Free space, or name another place.",
        )
    staging = out.with_name(f".{out.name}.writing")
    shutil.rmtree(staging, ignore_errors=True)
    report.begin("delta", size)

    def one(target: Target) -> None:
        copy_target(bundle, target, staging / target.path, lambda n: report.advance("delta", n))

    with ThreadPoolExecutor(COPIERS) as workers:
        list(workers.map(one, missing))
    for path in sorted((bundle / "metadata").iterdir()):
        durable.write(staging / "metadata" / path.name, path.read_bytes())
    staging.rename(out)
    durable.sync_dir(out.parent)
    report.end("delta")
    return Delta(out, trusted.release, len(missing), size, trusted.size)
