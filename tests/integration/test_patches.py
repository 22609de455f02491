"""Patches as people type them, on images that mksquashfs made; killed at every step of a rebuild."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from engine.blobs import Blobs
from engine.process import run
from engine.verify import open_bundle, verify
from installer.carry import delta, rebuild
from installer.carry.delta import Patching
from installer.carry.patching import Base, Patcher
from installer.cli.options import default_cache
from installer.depot import Depot
from tests.bundles import NOW, MemoryKeys, make
from tests.integration.test_kill_points import at_steps
from tests.integration.test_signing import People
from tests.kills import killed_at
from tests.patched import NEW, OLD

OPTIONS = "-noappend -comp zstd -Xcompression-level 3 -b 128K -all-root -all-time 0 -no-xattrs -processors 2 -quiet"
RANDOM = np.random.default_rng(1)
WEIGHTS = (RANDOM.standard_normal((512, 1024)) * 0.02).astype(np.float32)


def image(place: Path, version: str) -> bytes:
    """A tree of programs and libraries as an image: two versions differ in some lines of most files, as releases do."""
    tree, out = place / "tree", place / "image"
    for n in range(60):
        path = tree / "lib" / f"part{n % 7}" / f"module_{n:02}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            f"def function_{k}(a, b):  # {hashlib.sha256(b'%d' % (n * 1000 + k)).hexdigest()}\n" for k in range(150)
        ]
        lines[n % 150] = f"VERSION = {version!r}\n"
        path.write_text("".join(lines))
    library = bytearray(np.random.default_rng(2).integers(0, 60, 1_500_000, np.uint8).tobytes())
    library[700_000:700_000] = version.encode() * 7
    (tree / "lib" / "native.so").write_bytes(library)
    run(["mksquashfs", tree, out, *OPTIONS.split()], package="squashfs-tools")
    shutil.rmtree(tree)
    data = out.read_bytes()
    out.unlink()
    return data


def weights(place: Path, relative: float) -> bytes:
    """Half a million synthetic numbers, each changed by about that much."""
    save_file({"w": (WEIGHTS * (1 + relative * RANDOM.standard_normal(WEIGHTS.shape))).astype(np.float16)}, place / "w")
    return (place / "w").read_bytes()


def build(people: People, version: str, contents: dict[str, bytes]) -> Path:
    """Lock and build a release with these files."""
    definition = people.place / "small.yml"
    text: dict[str, Any] = yaml.safe_load(definition.read_text())
    text["version"], text["files"] = version, []
    for name, data in contents.items():
        (people.place / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        text["files"].append({"name": name, "url": f"file:{name}", "profiles": ["gpu"], "sha256": digest})
    definition.write_text(yaml.safe_dump(text))
    people.build()
    return people.place / "out" / f"small-{version}"


def test_a_new_image_and_new_weights_cross_as_patches(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    people = People(tmp_path, default_cache(), capfd, monkeypatch)
    people.types("keys", "init", "--keys", people.keys)
    root, keys, depot = ("--root", people.keys / "root.json"), ("--keys", people.keys), ("--depot", people.depot)
    old = build(people, "1.0.0", {"r.squashfs": image(tmp_path, "1.0.0"), "m.safetensors": weights(tmp_path, 0)})
    contents = {"r.squashfs": image(tmp_path, "1.1.0"), "m.safetensors": weights(tmp_path, 1e-5)}
    new = build(people, "1.1.0", contents)
    plain = people.types("delta", new, "--base", old, "--out", tmp_path / "plain", *root)
    made = people.types("delta", new, "--base", old, "--patch", "--out", tmp_path / "delta", *keys)
    by_name = {Path(p["base"]).name: p for p in made["patches"]}
    assert set(by_name) == set(contents)
    assert by_name["r.squashfs"]["size"] < len(contents["r.squashfs"]) * 0.05
    assert by_name["m.safetensors"]["size"] < len(contents["m.safetensors"]) * 0.05
    assert made["size"] < plain["size"] - sum(map(len, contents.values())) * 0.9
    refused = people.types("import", tmp_path / "delta", "--depot", tmp_path / "empty", *root, ok=3)
    assert "2 patches are for files that the depot does not have" in refused["error"]["what"]
    people.types("import", old, *depot, *root)
    assert people.types("verify", tmp_path / "delta", *depot, *root)["good"]
    sent = people.types(
        "receipt", "--out", tmp_path / "r.json", "--site-keys", tmp_path / "site", "--runs", tmp_path, *depot
    )
    told = ("--receipt", tmp_path / "r.json", "--site", sent["public"])
    exact = people.types("delta", new, *told, "--base", old, "--patch", "--out", tmp_path / "exact", *keys)
    assert [p["sha256"] for p in exact["patches"]] == [p["sha256"] for p in made["patches"]]
    assert people.types("import", tmp_path / "delta", *depot)["copied"] == made["size"]
    for name, data in contents.items():
        assert (people.depot / "bundles/small-1.1.0/content/files" / name).read_bytes() == data
    assert people.types("verify", people.depot / "bundles/small-1.1.0", *root)["good"]
    assert "--base" in people.types("delta", new, *told, "--patch", "--out", "x", *keys, ok=2)["error"]["remedy"]


@pytest.fixture
def made(tmp_path: Path) -> delta.Delta:
    """A delta with a patch, and beside it a depot (`before`) that has its base."""
    keys = MemoryKeys(tmp_path / "keys")
    base = make(tmp_path, {"files/r": OLD, "files/a": b"a"}, keys=keys, now=NOW - timedelta(hours=1))
    new = make(tmp_path / "next", {"files/r": NEW, "files/a": b"a"}, keys=keys, version="1.1.0")
    old, trusted = open_bundle(base.path, base.root), open_bundle(new.path, base.root)
    have = {t.sha256 for t in old.targets.values()}
    patching = Patching(Patcher(Base(new.path, trusted), [Base(base.path, old)], have), keys.signers("timestamp", ""))
    (tmp_path / "root.json").write_bytes(base.root)
    Depot(tmp_path / "before").import_bundle(base.path, root_json=tmp_path / "root.json")
    return delta.write(new.path, trusted, tmp_path / "delta", have, None, patching)


def test_killed_at_every_step_of_a_rebuild(tmp_path: Path, made: delta.Delta) -> None:
    """Invariant: a content has its name when it is whole and right, and not before; the next attempt completes it."""
    patch, blobs = made.patches[0], Blobs(tmp_path / "blobs")

    def prepare() -> None:
        shutil.rmtree(blobs.root, ignore_errors=True)
        shutil.copytree(tmp_path / "before" / "blobs", blobs.root)

    def command() -> None:
        rebuild.bring(blobs, made.path, patch)
        rebuild.rebuild(blobs, patch)

    def afterwards() -> None:
        path = blobs.path(patch.target)
        assert not path.exists() or path.read_bytes() == NEW
        command()
        assert path.read_bytes() == NEW
        assert not list((blobs.root / "partial").iterdir())

    assert at_steps(1, prepare, command, afterwards) >= 5


def test_an_import_killed_around_a_rebuild_is_completed_by_the_next(tmp_path: Path, made: delta.Delta) -> None:
    """Invariant: the release that was there stays whole, the new one appears whole, and no patch is left behind."""
    root = (tmp_path / "root.json").read_bytes()
    for step in range(8, 90, 9):
        depot = Depot(tmp_path / f"depot-{step}")
        shutil.copytree(tmp_path / "before", depot.root, symlinks=True)
        if not killed_at(step, lambda at=depot: at.import_bundle(made.path)):  # type: ignore[misc]
            break
        assert verify(depot.view("demo-1.0.0"), root).good
        depot.import_bundle(made.path)
        assert verify(depot.view("demo-1.1.0"), root).good
        assert not (depot.blobs.root / "patches").exists()
    assert step > 30
