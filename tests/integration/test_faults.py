"""Kills and full disks while building and importing: nothing is half done, and the next run completes it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.errors import ResourceError
from engine.verify import verify
from installer.depot import Depot
from tests.bundles import make
from tests.demo import TREE, Demo

BIG = 40  # files of 1 MiB: enough that a kill lands in the middle


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


def run_and_kill(demo: Demo, argv: list[str], after_s: float) -> int:
    """Run a command in a process group of its own and kill it with SIGKILL after a while; its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "installer", *argv],
        cwd=TREE,
        env=demo.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def seconds_of(demo: Demo, argv: list[str]) -> float:
    """How long a command takes here when nobody kills it; kills are placed within this time."""
    begin = time.monotonic()
    demo.appliance(*argv)
    return time.monotonic() - begin


def test_a_build_killed_anywhere_is_completed_by_the_next(demo: Demo, definition: Path, tmp_path: Path) -> None:
    """Invariant: OUT holds no bundle, or one that verifies; and one more run always makes one that verifies."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    argv = ["build", "bundle", str(definition), "--out", str(out), "--cache", str(cache)]
    final, root = out / "kill-1.0.0", (demo.keys / "root.json").read_bytes()
    whole = seconds_of(demo, argv)
    killed = 0
    for step in range(12):
        if final.exists():  # an earlier run came through; the next one gets as much to do as the first
            assert verify(final, root).good
            shutil.rmtree(final)
            shutil.rmtree(cache)
        killed += run_and_kill(demo, argv, whole * (0.3 + 0.06 * step)) == -signal.SIGKILL
    assert killed >= 4
    demo.appliance(*argv)
    assert verify(final, root).good
    assert {p.name for p in out.iterdir()} == {"kill-1.0.0", ".kill-1.0.0.lock"}


def test_an_import_killed_anywhere_is_completed_by_the_next(demo: Demo, tmp_path: Path) -> None:
    """Invariant: the depot shows no release, or a whole one; and no byte is copied twice in the end."""
    depot, root = tmp_path / "depot", demo.keys / "root.json"
    argv = ["import", str(demo.bundle), "--depot", str(depot), "--root", str(root)]
    whole = seconds_of(demo, argv)
    killed = 0
    for step in range(10):
        if Depot(depot).releases():
            assert verify(Depot(depot).view("demo-1.0.0"), root.read_bytes()).good
            shutil.rmtree(depot)
        killed += run_and_kill(demo, argv, whole * (0.3 + 0.06 * step)) == -signal.SIGKILL
    assert killed >= 3
    demo.appliance(*argv)
    assert verify(Depot(depot).view("demo-1.0.0"), root.read_bytes()).good
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
