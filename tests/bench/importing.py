"""How fast a bundle gets into the depot: against a plain copy that is flushed, and where nothing needs to be copied."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

from engine.verify import verify
from installer.depot import Depot
from tests.bench import trees
from tests.bench.measure import Claim, Pair, Run, call, forget, seconds
from tests.bundles import Bundle

FILES, SIZE = 8, 128 << 20
CLAIMS = (
    Claim("import-1GiB", "s", "cp -r and sync, from the same tmpfs", 1.10),
    Claim("import-journal", "s", "the same import flushed once, at its end", 1.02),
    Claim("import-space", "bytes", "the bundle's size", 1.01),
    Claim("import-linked", "s", "verify alone (ext4, page cache)", 1.05),
    Claim("import-shared-cold", "s", "verify alone (XFS with shared blocks, cold)", 1.05),
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """A tmpfs stands for a medium that is faster than the disk: nothing hides behind a slow source."""
    names = (work / f"depot-{i}" for i in itertools.count())
    if any(only in c.name for c in CLAIMS[:3]):
        with _mounted(work / "medium", "-t", "tmpfs", "-o", "size=1200m,mode=0755", "tmpfs") as medium:
            bundle = trees.bundle(medium, FILES, SIZE)
            root = trees.root(bundle, work)

            def plain() -> float:
                return _import(bundle, root, next(names))

            yield Pair("import-1GiB", plain, lambda: _copy(bundle, next(names)))
            yield Pair("import-journal", plain, lambda: _import(bundle, root, next(names), flush=False))
            yield Pair(
                "import-space",
                lambda: _peak(bundle, root, next(names)),
                lambda: FILES * float(SIZE),
                rounds=1,
                warm=False,
            )
    if only in "import-linked":
        bundle = trees.bundle(work, FILES, SIZE)
        root = trees.root(bundle, work)
        yield Pair("import-linked", lambda: _import(bundle, root, next(names), link=True), _verify(bundle))
        shutil.rmtree(bundle.path)
    if only in "import-shared-cold":
        image = work / "xfs.img"
        with image.open("wb") as file:
            file.truncate(FILES * SIZE * 2)
        call(["mkfs.xfs", "-q", "-m", "reflink=1", image])
        with _mounted(work / "xfs", "-o", "loop", str(image)) as xfs:
            shared = trees.bundle(xfs, FILES, SIZE)
            root = trees.root(shared, xfs)

            def cold(run: Run) -> float:
                forget(shared.path, work / "nothing")
                fd = os.open(image, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)
                return run()

            yield Pair(
                "import-shared-cold",
                lambda: cold(lambda: _import(shared, root, xfs / "depot")),
                lambda: cold(_verify(shared)),
            )


def _import(bundle: Bundle, root: Path, depot: Path, *, link: bool = False, flush: bool = True) -> float:
    """Seconds of one import into a new depot; without ``flush`` nothing is flushed but the whole, at the end."""

    def run() -> None:
        Depot(depot).import_bundle(bundle.path, root_json=root, link=link)
        if not flush:
            call(["sync", "-f", depot])

    with nullcontext() if flush else patch("os.fsync"):
        took = seconds(run)()
    shutil.rmtree(depot)
    return took


def _copy(bundle: Bundle, place: Path) -> float:
    def run() -> None:
        call(["cp", "-r", bundle.path, place])
        call(["sync", "-f", place])

    took = seconds(run)()
    shutil.rmtree(place)
    return took


def _peak(bundle: Bundle, root: Path, depot: Path) -> float:
    """The most that the depot ever occupied while it took the bundle in, in bytes; looked at every 20 ms."""
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            found = subprocess.run(["du", "-s", "--block-size=1", depot], capture_output=True, text=True, check=False)
            most = max([most, *(int(line.split()[0]) for line in found.stdout.splitlines())])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _import(bundle, root, depot)
    finally:
        done.set()
        watcher.join()
    return float(most)


def _verify(bundle: Bundle) -> Run:
    return seconds(lambda: verify(bundle.path, bundle.root))


@contextmanager
def _mounted(place: Path, *how: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", *how, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
