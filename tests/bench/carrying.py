"""How fast a bundle gets into the depot, against a plain copy that is flushed to disk."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from installer.depot import Depot
from tests.bench.measure import Case, seconds
from tests.bundles import make

FILES, SIZE = 8, 128 << 20


def cases(work: Path) -> Iterator[Case]:
    """Import reads from memory, as from a medium that is faster than the disk."""
    source = work / "medium"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=0755", "tmpfs", str(source)], check=True)
    try:
        bundle = make(source, {f"models/m/part-{i}.bin": os.urandom(SIZE) for i in range(FILES)})
        root = work / "root.json"
        root.write_bytes(bundle.root)
        names = (work / f"copy-{i}" for i in itertools.count())

        def import_() -> float:
            depot = next(names)
            took = seconds(lambda: Depot(depot).import_bundle(bundle.path, root_json=root))()
            shutil.rmtree(depot)
            return took

        def copy() -> float:
            place = next(names)
            took = seconds(lambda: _copy(bundle.path, place))()
            shutil.rmtree(place)
            return took

        yield Case("import-1GiB", "s", import_, "cp -r, sync", copy, 1.10)
    finally:
        subprocess.run(["umount", str(source)], check=True)


def _copy(source: Path, place: Path) -> None:
    subprocess.run(["cp", "-r", source, place], check=True)
    subprocess.run(["sync", "-f", place], check=True)
