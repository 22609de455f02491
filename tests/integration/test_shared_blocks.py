"""On a file system that shares blocks, an import copies nothing, and what is verified is still the depot's own file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import TrustError
from engine.verify import verify
from installer.depot import Depot
from tests.bundles import make

SIZE = 160 << 20


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that can share blocks, in a file; a bundle of ``SIZE`` leaves too little for a copy of it."""
    image, place = tmp_path / "xfs.img", tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    place.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def used(place: Path) -> int:
    os.sync()
    state = os.statvfs(place)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def test_an_import_takes_no_second_copy_and_later_writes_do_not_reach_the_depot(xfs: Path) -> None:
    bundle = make(xfs, {"models/m/weights.bin": os.urandom(SIZE), "files/a.txt": b"a"})
    (xfs / "root.json").write_bytes(bundle.root)
    before = used(xfs)
    done = Depot(xfs / "depot").import_bundle(bundle.path, root_json=xfs / "root.json")
    assert used(xfs) - before < SIZE / 4
    assert done.copied == 0
    with (bundle.path / "content/models/m/weights.bin").open("r+b") as file:
        file.write(b"not what was signed")
    assert verify(done.view, bundle.root).good


def test_a_damaged_file_is_refused_and_leaves_nothing(xfs: Path) -> None:
    bundle = make(xfs, {"models/m/weights.bin": os.urandom(1 << 20)})
    (xfs / "root.json").write_bytes(bundle.root)
    with (bundle.path / "content/models/m/weights.bin").open("r+b") as file:
        file.write(b"not what was signed")
    depot = Depot(xfs / "depot")
    with pytest.raises(TrustError, match="not what was promised"):
        depot.import_bundle(bundle.path, root_json=xfs / "root.json")
    assert not list((depot.root / "blobs/partial").iterdir())
    assert depot.releases() == []
