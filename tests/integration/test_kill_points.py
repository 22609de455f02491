"""SIGKILL at every step that touches the disk: the next run completes what the killed one began, and nothing is half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from engine.verify import open_bundle, verify
from installer.carry import delta, garbage, volumes
from installer.carry.taking import take_in
from installer.depot import Depot
from tests.bundles import NOW, Bundle, MemoryKeys, make
from tests.kills import killed_at

FILES = {"models/m/big.bin": os.urandom(250_000), "files/a": b"a", "files/b": b"b" * 3000, "manifest.json": b"{}"}
PIECE = 100_000
LIMIT = 2000  # kills of one command


@pytest.fixture(params=[pytest.param(5, id="every-fifth"), pytest.param(1, id="every", marks=pytest.mark.slow)])
def stride(request: pytest.FixtureRequest) -> int:
    """Every run kills at each fifth step, a slow one at each."""
    stride: int = request.param
    return stride


def at_steps(
    stride: int, prepare: Callable[[], None], command: Callable[[], object], afterwards: Callable[[], None]
) -> int:
    """Kill at step 1, 1 + stride …, each time from a fresh start, and check what follows; the number of steps that there are."""
    for step in range(1, LIMIT, stride):
        prepare()
        if not killed_at(step, command):
            return step - 1
        afterwards()
    raise AssertionError(f"more than {LIMIT} changes of the file system")


@pytest.fixture
def keys(tmp_path: Path) -> MemoryKeys:
    return MemoryKeys(tmp_path / "keys")


@pytest.fixture
def bundle(tmp_path: Path, keys: MemoryKeys) -> Bundle:
    return make(tmp_path, FILES, keys=keys, chunk_size=PIECE, now=NOW - timedelta(hours=1))


@pytest.fixture
def pin(tmp_path: Path, bundle: Bundle) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(bundle.root)
    return path


def whole(depot: Depot, bundle: Bundle, release: str = "demo-1.0.0") -> None:
    assert depot.releases() == [release]
    assert verify(depot.view(release), bundle.root).good
    assert garbage.find(depot).contents == ()
    assert not list((depot.blobs.root / "pieces").glob("*/*"))


def test_import(stride: int, tmp_path: Path, bundle: Bundle, pin: Path) -> None:
    """Invariant: the depot shows no release or a whole one; the next import completes it and leaves nothing behind."""
    depot = Depot(tmp_path / "depot")

    def afterwards() -> None:
        if depot.releases():
            assert verify(depot.view("demo-1.0.0"), bundle.root).good
        depot.import_bundle(bundle.path, root_json=pin)
        whole(depot, bundle)

    kills = at_steps(
        stride,
        lambda: shutil.rmtree(depot.root, ignore_errors=True),
        lambda: depot.import_bundle(bundle.path, root_json=pin),
        afterwards,
    )
    assert kills >= 60


def test_import_of_the_next_release(stride: int, tmp_path: Path, bundle: Bundle, keys: MemoryKeys, pin: Path) -> None:
    """Invariant: the release that was there stays whole whatever happens to the next."""
    following = make(tmp_path / "next", {**FILES, "files/a": b"A"}, keys=keys, version="1.1.0", chunk_size=PIECE)
    before, depot = tmp_path / "before", Depot(tmp_path / "depot")
    Depot(before).import_bundle(bundle.path, root_json=pin)

    def prepare() -> None:
        shutil.rmtree(depot.root, ignore_errors=True)
        shutil.copytree(before, depot.root, symlinks=True)

    def afterwards() -> None:
        assert verify(depot.view("demo-1.0.0"), bundle.root).good
        depot.import_bundle(following.path)
        assert depot.releases() == ["demo-1.0.0", "demo-1.1.0"]
        assert all(verify(depot.view(r), bundle.root).good for r in depot.releases())

    assert at_steps(stride, prepare, lambda: depot.import_bundle(following.path), afterwards) >= 40


def test_taking_in_volumes(stride: int, tmp_path: Path, bundle: Bundle, pin: Path) -> None:
    trusted = open_bundle(bundle.path, bundle.root)
    split = volumes.layout(bundle.path, trusted, size=volumes.RESERVE + 130_000, out=tmp_path / "volumes")
    for number in range(1, len(split.media) + 1):
        volumes.write(bundle.path, trusted, split, number, NOW)
    depot = Depot(tmp_path / "depot")

    def all_of_them() -> None:
        for medium in split.media:
            take_in(depot, medium, root_json=pin)

    def afterwards() -> None:
        all_of_them()
        whole(depot, bundle)

    kills = at_steps(stride, lambda: shutil.rmtree(depot.root, ignore_errors=True), all_of_them, afterwards)
    assert kills >= 100


def test_writing_a_delta_and_a_volume(stride: int, tmp_path: Path, bundle: Bundle) -> None:
    """Invariant: a directory with its final name is whole."""
    trusted = open_bundle(bundle.path, bundle.root)
    out = tmp_path / "delta"
    split = volumes.layout(bundle.path, trusted, size=1 << 30, out=tmp_path / "volumes")

    def both() -> None:
        if not out.exists():
            delta.write(bundle.path, trusted, out, [])
        volumes.write(bundle.path, trusted, split, 1, NOW)

    def afterwards() -> None:
        if out.exists():
            assert verify(out, bundle.root).good
        if split.media[0].exists():
            assert volumes.check(split.media[0], trusted) == []
        both()
        assert {p.name for p in (tmp_path / "volumes").iterdir()} == {split.media[0].name}

    def prepare() -> None:
        """A volume of an earlier run is there, to be written again."""
        shutil.rmtree(out, ignore_errors=True)
        volumes.write(bundle.path, trusted, split, 1, NOW)

    assert at_steps(stride, prepare, both, afterwards) >= 20


def test_collecting_garbage(stride: int, tmp_path: Path, bundle: Bundle, keys: MemoryKeys, pin: Path) -> None:
    """Invariant: what a release needs is never deleted."""
    following = make(tmp_path / "next", {**FILES, "files/a": b"A"}, keys=keys, version="1.1.0", chunk_size=PIECE)
    before, depot = tmp_path / "before", Depot(tmp_path / "depot")
    Depot(before).import_bundle(bundle.path, root_json=pin)
    Depot(before).import_bundle(following.path)

    def prepare() -> None:
        shutil.rmtree(depot.root, ignore_errors=True)
        shutil.copytree(before, depot.root, symlinks=True)

    def collect() -> None:
        if "demo-1.0.0" in depot.releases():
            depot.remove("demo-1.0.0")
        garbage.delete(depot, garbage.find(depot).plan)

    def afterwards() -> None:
        assert verify(depot.view("demo-1.1.0"), bundle.root).good
        collect()
        whole(depot, bundle, "demo-1.1.0")

    assert at_steps(stride, prepare, collect, afterwards) >= 8
