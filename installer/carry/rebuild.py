"""The receiver's side of patches: files rebuilt in the depot, each compared with its signed hash before it has its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine import tree
from engine.blobs import CHUNK, Blobs, hash_file
from engine.errors import TrustError
from engine.report import Report, Silent
from installer.carry.patches import Patch
from installer.patch.apply import apply
from installer.patch.index import Index, load


def store(blobs: Blobs) -> Blobs:
    """Where patches wait until what they make is there; not among the contents, for no release lists them."""
    return Blobs(blobs.root / "patches")


def clear(blobs: Blobs) -> None:
    """Forget patches, once the release they came with is whole."""
    shutil.rmtree(store(blobs).root, ignore_errors=True)


def bring(blobs: Blobs, bundle: Path, patch: Patch, report: Report | None = None, task: str = "import") -> int:
    """Copy a patch in, hashed on the way, so that a medium cannot answer differently later; bytes that were copied."""
    report, file = report or Silent(), patch.file
    with store(blobs).incoming(file.sha256, file.size) as incoming, tree.open_beneath(bundle, file.path) as source:
        start = incoming.done
        source.seek(start)
        while not incoming.complete and (chunk := source.read(CHUNK)):
            incoming.write(chunk)
            report.advance(task, len(chunk))
        return incoming.done - start


def ready(blobs: Blobs, patches: Iterable[Patch]) -> list[Patch]:
    """Patches that are here with their base, and whose result is not."""
    return [
        p
        for p in patches
        if not blobs.has(p.target, p.target_size)
        and blobs.has(p.base, p.base_size)
        and store(blobs).has(p.sha256, p.size)
    ]


def rebuild(blobs: Blobs, patch: Patch, report: Report | None = None) -> None:
    """Make one file. A stopped one is continued where it was.

    Raises:
        TrustError: what came out is not as signed, because the patch or the base is damaged; nothing stays.
        ResourceError: another libzstd is needed, or the disk is full.
    """
    report = report or Silent()
    task = f"rebuild {Path(patch.base_path).name}"
    report.begin(task, patch.target_size)
    try:
        with (
            store(blobs).path(patch.sha256).open("rb") as file,
            blobs.path(patch.base).open("rb") as base,
            blobs.incoming(patch.target, patch.target_size) as incoming,
        ):
            index, start = load(file, patch.size)
            _require_same(index, patch)
            report.advance(task, incoming.done)
            apply(index, start, file, base, incoming, lambda n: report.advance(task, n))
    except TrustError as error:
        raise _cause(blobs, patch, error) from error
    report.end(task)


def _require_same(index: Index, patch: Patch) -> None:
    told = index.base, index.base_size, index.target, index.target_size
    if told != (patch.base, patch.base_size, patch.target, patch.target_size):
        raise TrustError("the patch is for other files than its signed list says")


def _cause(blobs: Blobs, patch: Patch, error: TrustError) -> TrustError:
    """Whether it was the depot's own copy of the base that rotted."""
    if hash_file(blobs.path(patch.base))[0] != patch.base:
        return TrustError(
            f"the depot's copy of {patch.base_path} ({patch.base_release}) is damaged, so nothing can be rebuilt from it",
            where=str(blobs.path(patch.base)),
            remedy="Delete that file, write a receipt (`appliance receipt`), have a delta made from it, and look after the disk.",
        )
    return TrustError(
        f"it cannot be rebuilt: {error.what}",
        where=patch.path,
        remedy="Make the delta again; if that is refused too, carry the file whole: `appliance delta` without --patch.",
    )
