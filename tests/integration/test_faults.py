"""Kills and full disks while building and importing: nothing is half done, and the next run completes it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from engine.errors import ResourceError
from engine.verify import verify
from installer.cli.main import main
from installer.depot import Depot
from tests.bundles import make
from tests.demo import TREE, Demo
from tests.kills import LIMIT, killed_at, steps_of

BIG = 12  # files of 1 MiB
KILLS = 4  # places of a command, from its beginning to near its end


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory, demo: Demo) -> Path:
    """A definition of plain files, locked."""
    where = tmp_path_factory.mktemp("definition")
    files = []
    for i in range(BIG):
        data = os.urandom(1 << 20)
        (where / f"f{i}").write_bytes(data)
        files.append(
            {"name": f"f{i}", "url": f"file:f{i}", "sha256": hashlib.sha256(data).hexdigest(), "profiles": ["gpu"]}
        )
    text = {
        "schema": 1,
        "name": "kill",
        "version": "1.0.0",
        "target": {"os": "debian-12", "python": "3.11"},
        "files": files,
    }
    (where / "kill.yml").write_text(yaml.safe_dump(text))
    demo.appliance("lock", where / "kill.yml")
    return where / "kill.yml"


def command(demo: Demo, *argv: str | Path) -> Callable[[], None]:
    """The command line, to be run in a child of this process."""

    def run() -> None:
        os.environ.update(demo.environment)
        os.chdir(TREE)
        try:
            main([str(a) for a in argv])
        except SystemExit as ended:
            if ended.code:
                raise

    return run


def spread(steps: int) -> list[int]:
    """Steps to kill at, from the first to one near the end: what threads do in another order, no run does with a fifth fewer."""
    return [1 + steps * 8 * i // (10 * (KILLS - 1)) for i in range(KILLS)]


def without(cache: Path, names: Iterable[str], where: Path) -> None:
    """Make ``where`` the cache as it was before these contents were fetched. The files are the same: nothing changes a blob."""
    shutil.rmtree(where, ignore_errors=True)
    absent = set(names)
    shutil.copytree(cache, where, copy_function=os.link, ignore=lambda _place, there: absent & set(there))


def test_a_build_killed_anywhere_is_completed_by_the_next(demo: Demo, definition: Path, tmp_path: Path) -> None:
    """Invariant: OUT holds no bundle, or one that verifies; and one more run always makes one that verifies."""
    out, cache, whole = tmp_path / "out", tmp_path / "cache", tmp_path / "whole"
    final, root = out / "kill-1.0.0", (demo.keys / "root.json").read_bytes()
    demo.appliance("build", "bundle", definition, "--out", tmp_path / "first", "--cache", whole)
    files = [hashlib.sha256(f.read_bytes()).hexdigest() for f in definition.parent.glob("f*")]
    build = command(demo, "build", "bundle", definition, "--out", out, "--cache", cache)

    def prepare() -> None:
        shutil.rmtree(out, ignore_errors=True)
        without(whole, files, cache)

    prepare()
    for step in spread(steps_of(build)):
        prepare()
        assert killed_at(step, build)
        if final.exists():
            assert verify(final, root).good
        assert not killed_at(LIMIT, build)
        assert verify(final, root).good
        assert {p.name for p in out.iterdir()} == {"kill-1.0.0", ".kill-1.0.0.lock"}


def test_an_import_killed_anywhere_is_completed_by_the_next(demo: Demo, definition: Path, tmp_path: Path) -> None:
    """Invariant: the depot shows no release, or a whole one; and no byte is copied twice in the end."""
    depot, root = tmp_path / "depot", demo.keys / "root.json"
    demo.appliance("build", "bundle", definition, "--out", tmp_path)
    take = command(demo, "import", tmp_path / "kill-1.0.0", "--depot", depot, "--root", root)
    for step in spread(steps_of(take)):
        shutil.rmtree(depot)
        assert killed_at(step, take)
        if Depot(depot).releases():
            assert verify(Depot(depot).view("kill-1.0.0"), root.read_bytes()).good
        assert not killed_at(LIMIT, take)
        assert verify(Depot(depot).view("kill-1.0.0"), root.read_bytes()).good
        assert not any((depot / "blobs" / "partial").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m,mode=0755", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_in_the_middle_of_an_import_stops_cleanly_and_the_next_run_completes(
    small_disk: Path, tmp_path: Path
) -> None:
    """A second writer takes the space after the check: the message says so, and what arrived is kept."""
    bundle = make(tmp_path, {f"files/f{i}": os.urandom(1 << 20) for i in range(12)})
    root = tmp_path / "root.json"
    root.write_bytes(bundle.root)
    hog = small_disk / "hog"
    hog.write_bytes(bytes(75 << 20))
    depot = Depot(small_disk / "depot")
    object.__setattr__(depot, "require_space", lambda _missing: None)
    with pytest.raises(ResourceError, match="the disk is full") as stopped:
        depot.import_bundle(bundle.path, root_json=root)
    assert "run the same command again" in stopped.value.remedy
    assert depot.releases() == []
    hog.unlink()
    done = Depot(small_disk / "depot").import_bundle(bundle.path)
    assert verify(done.view, bundle.root).good


def test_a_full_disk_is_said_before_a_build_begins(
    demo: Demo, definition: Path, small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "hog").write_bytes(bytes(60 << 20))
    outcome = demo.appliance(
        "build",
        "bundle",
        definition,
        "--out",
        small_disk / "out",
        "--cache",
        tmp_path / "cache",
        ok=(6,),
        json_output=True,
    )
    assert "bytes too few are free" in outcome["error"]["what"]
    assert not list(small_disk.glob("out/*"))


def test_a_changed_source_is_refused_and_named(demo: Demo, definition: Path, tmp_path: Path) -> None:
    victim = definition.parent / "f3"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        outcome = demo.appliance(
            "build",
            "bundle",
            definition,
            "--out",
            tmp_path / "out",
            "--cache",
            tmp_path / "cache",
            ok=(3,),
            json_output=True,
        )
    finally:
        victim.write_bytes(good)
    assert "files/f3" in outcome["error"]["where"]
    assert "lock again" in outcome["error"]["remedy"]


def test_the_same_lock_built_twice_has_the_same_content(demo: Demo, definition: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        built = demo.appliance(
            "build",
            "bundle",
            definition,
            "--out",
            tmp_path / name,
            "--cache",
            tmp_path / f"cache-{name}",
            json_output=True,
        )
        digests.append(built["content_digest"])
    assert digests[0] == digests[1]
