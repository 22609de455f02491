"""Deltas with patches: the list is signed before anything is read, and nothing but the signed file gets into a depot."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from engine.blobs import Blobs
from engine.errors import InputError, ResourceError, TrustError
from engine.verify import open_bundle, verify
from installer.carry import delta, patches, patchnames, receipt, volumes
from installer.carry.checking import checked
from installer.carry.delta import Patching
from installer.carry.patches import extended
from installer.carry.patching import Base, Patcher
from installer.carry.plan import BLOCK
from installer.carry.taking import take_in
from installer.depot import Depot
from installer.patch import zstd
from tests.bundles import NOW, Bundle, MemoryKeys
from tests.bundles import make as make_bundle
from tests.patched import CHANGED, NEW, OLD, TEXT, archive


@pytest.fixture
def keys(tmp_path: Path) -> MemoryKeys:
    return MemoryKeys(tmp_path / "keys")


@pytest.fixture
def base(tmp_path: Path, keys: MemoryKeys) -> Bundle:
    files = {"runtimes/r.squashfs": OLD, "files/a": b"a" * 9000, "files/b": b"b"}
    return make_bundle(tmp_path, files, keys=keys, now=NOW - timedelta(hours=1))


@pytest.fixture
def following(tmp_path: Path, keys: MemoryKeys) -> Bundle:
    files = {"runtimes/r.squashfs": NEW, "files/a": b"a" * 9000, "files/b": b"B"}
    return make_bundle(tmp_path, files, keys=keys, version="1.1.0")


@pytest.fixture
def depot(tmp_path: Path, base: Bundle) -> Depot:
    """A site that holds the base."""
    pin = tmp_path / "root.json"
    pin.write_bytes(base.root)
    depot = Depot(tmp_path / "depot")
    depot.import_bundle(base.path, root_json=pin)
    return depot


def write(base: Bundle, following: Bundle, out: Path) -> delta.Delta:
    old, new = (open_bundle(b.path, base.root) for b in (base, following))
    have = {t.sha256 for t in old.targets.values()}
    patching = Patching(
        Patcher(Base(following.path, new), [Base(base.path, old)], have), following.keys.signers("timestamp", "")
    )
    return delta.write(following.path, new, out, have, None, patching)


@pytest.fixture
def patched_delta(tmp_path: Path, base: Bundle, following: Bundle) -> delta.Delta:
    return write(base, following, tmp_path / "delta")


def test_a_delta_carries_a_patch_and_the_depot_holds_the_signed_file(
    patched_delta: delta.Delta, depot: Depot, base: Bundle
) -> None:
    made = patched_delta
    assert [(p.base_path, p.base_release) for p in made.patches] == [("content/runtimes/r.squashfs", "demo-1.0.0")]
    assert made.replaced == len(NEW)
    assert made.size < len(NEW) * 0.1
    assert not (made.path / "content/runtimes").exists()
    imported = depot.import_bundle(made.path)
    assert imported.copied == made.size
    assert verify(imported.view, base.root).good
    assert not (imported.view / "metadata/patches.json").exists()
    assert not (depot.blobs.root / "patches").exists()
    assert not list((depot.blobs.root / "partial").iterdir())


def test_the_same_delta_again_changes_nothing(patched_delta: delta.Delta, depot: Depot) -> None:
    depot.import_bundle(patched_delta.path)
    assert not depot.import_bundle(patched_delta.path).changed


def test_a_patch_for_a_base_that_is_not_there_names_it(
    patched_delta: delta.Delta, tmp_path: Path, base: Bundle
) -> None:
    (tmp_path / "pin").write_bytes(base.root)
    empty = Depot(tmp_path / "empty")
    sha256 = hashlib.sha256(OLD).hexdigest()
    told = f"first content/runtimes/r.squashfs of demo-1.0.0 .{len(OLD):,} bytes, SHA-256 {sha256}"
    with pytest.raises(TrustError, match=told) as refused:
        empty.import_bundle(patched_delta.path, root_json=tmp_path / "pin")
    assert "appliance receipt" in refused.value.remedy
    assert empty.releases() == []


def test_a_base_that_rotted_in_the_depot_is_named_and_nothing_stays(patched_delta: delta.Delta, depot: Depot) -> None:
    blob = depot.blobs.path(hashlib.sha256(OLD).hexdigest())
    blob.chmod(0o644)
    data = bytearray(OLD)
    data[5000] ^= 1
    blob.write_bytes(data)
    with pytest.raises(TrustError, match=r"depot's copy of content/runtimes/r\.squashfs \(demo-1\.0\.0\) is damaged"):
        depot.import_bundle(patched_delta.path)
    assert depot.releases() == ["demo-1.0.0"]
    assert not depot.blobs.has(hashlib.sha256(NEW).hexdigest(), len(NEW))


def test_a_delta_without_anything_like_it_is_as_before(tmp_path: Path, base: Bundle, following: Bundle) -> None:
    old, new = (open_bundle(b.path, base.root) for b in (base, following))
    patching = Patching(
        Patcher(Base(following.path, new), [Base(base.path, old)], set()), following.keys.signers("timestamp", "")
    )
    made = delta.write(following.path, new, tmp_path / "delta", [], None, patching)
    assert made.patches == ()
    assert not (made.path / "metadata/patches.json").exists()


Change = Callable[[dict[str, Any]], object]
LIES: list[tuple[str, Change, str]] = [
    ("another release", lambda d: d.update(release="demo-9"), "is of demo-9"),
    ("an older version", lambda d: d.update(version=d["version"] - 1), "version"),
    ("a field more", lambda d: d.update(more=1), "1 mistakes"),
    ("no hash", lambda d: d["patches"][0].update(sha256="../../x"), "1 mistakes"),
    ("a size below nothing", lambda d: d["patches"][0].update(size=-1), "1 mistakes"),
    ("a file of another release", lambda d: d["patches"][0].update(target="0" * 64), "does not list"),
    ("the same file twice", lambda d: d["patches"].append(d["patches"][0]), "two patches"),
    ("another base", lambda d: d["patches"][0].update(base=hashlib.sha256(b"b").hexdigest(), base_size=1), "list says"),
    ("another patch", lambda d: d["patches"][0].update(sha256="0" * 64), "not what was promised"),
]


def resign(made: delta.Delta, keys: MemoryKeys, change: Change, role: str = "timestamp") -> None:
    path = made.path / patchnames.LIST
    told = json.loads(Envelope.from_dict(json.loads(path.read_text())).payload)
    change(told)
    envelope = Envelope(json.dumps(told).encode(), patches.TYPE, {})
    for signer in keys.signers(role, ""):
        envelope.sign(signer)
    path.write_text(json.dumps(envelope.to_dict()))


@pytest.mark.parametrize(("what", "change", "told"), LIES, ids=[w for w, _, _ in LIES])
def test_a_list_that_lies_is_refused(
    patched_delta: delta.Delta, depot: Depot, keys: MemoryKeys, what: str, change: Change, told: str
) -> None:
    resign(patched_delta, keys, change)
    with pytest.raises(TrustError, match=told):
        depot.import_bundle(patched_delta.path)
    assert depot.releases() == ["demo-1.0.0"]


def test_a_list_of_strangers_or_of_another_role_is_not_read(
    patched_delta: delta.Delta, depot: Depot, keys: MemoryKeys, tmp_path: Path
) -> None:
    for signed_by, role in ((MemoryKeys(tmp_path / "stranger"), "timestamp"), (keys, "snapshot")):
        resign(patched_delta, signed_by, lambda d: None, role)
        with pytest.raises(TrustError, match="list of patches is not signed"):
            depot.import_bundle(patched_delta.path)


@pytest.mark.parametrize("text", ["", "{}", "null", "[" * 100_000, '{"payload": 1, "payloadType": 2, "signatures": 3}'])
def test_what_is_no_list_is_one_sentence(patched_delta: delta.Delta, depot: Depot, text: str) -> None:
    (patched_delta.path / patchnames.LIST).write_text(text)
    with pytest.raises(TrustError, match="list of patches is not signed"):
        depot.import_bundle(patched_delta.path)


def test_a_patch_that_no_list_names_is_refused_like_any_stranger(patched_delta: delta.Delta, depot: Depot) -> None:
    (patched_delta.path / "patches" / f"{'0' * 64}.patch").write_bytes(b"x")
    with pytest.raises(TrustError, match="covered by no signature, first patches/0000"):
        depot.import_bundle(patched_delta.path)
    (patched_delta.path / patchnames.LIST).unlink()
    with pytest.raises(TrustError, match="2 files are covered by no signature"):
        depot.import_bundle(patched_delta.path)


def test_keys_that_may_not_sign_a_list_are_refused_on_the_builder(
    tmp_path: Path, base: Bundle, following: Bundle
) -> None:
    old, new = (open_bundle(b.path, base.root) for b in (base, following))
    have = {t.sha256 for t in old.targets.values()}
    patching = Patching(Patcher(Base(following.path, new), [Base(base.path, old)], have), [])
    with pytest.raises(InputError, match="may not sign a list of patches"):
        delta.write(following.path, new, tmp_path / "delta", have, None, patching)
    assert not (tmp_path / "delta").exists()


def test_a_relative_is_of_the_same_kind_and_of_the_same_name_but_for_its_version(base: Bundle, tmp_path: Path) -> None:
    names = ("runtimes/v-0.31.0.squashfs", "runtimes/w-0.31.0.squashfs", "files/v-0.31.0.squashfs")
    old = make_bundle(tmp_path / "named", {n: os.urandom(300_000) for n in names})
    trusted = open_bundle(old.path, old.root)
    patcher = Patcher(Base(old.path, trusted), [Base(old.path, trusted)], {t.sha256 for t in trusted.targets.values()})
    new = replace(trusted.targets["content/runtimes/v-0.31.0.squashfs"], path="content/runtimes/v-0.32.1.squashfs")
    assert [r.target.path for r in patcher.relatives(new)] == ["content/runtimes/v-0.31.0.squashfs"]
    assert patcher.relatives(replace(new, path="content/runtimes/x.squashfs")) == []
    assert patcher.relatives(replace(new, kind="images")) == []
    assert patcher.relatives(replace(new, size=1000)) == []


def test_a_patch_that_cannot_be_rebuilt_here_says_why(
    patched_delta: delta.Delta, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zstd, "version", lambda: "1.0.0")
    with pytest.raises(ResourceError, match=r"as libzstd .* does; here is 1\.0\.0"):
        depot.import_bundle(patched_delta.path)


def test_a_delta_with_patches_is_checked_as_a_whole(
    patched_delta: delta.Delta, depot: Depot, base: Bundle, tmp_path: Path
) -> None:
    def problems(blobs: Blobs | None = None) -> list[tuple[str, str, str]]:
        outcome = checked(patched_delta.path, verify(patched_delta.path, base.root), blobs)
        return [(f.problem, f.path, f.detail) for f in outcome.findings]

    assert problems(depot.blobs) == []
    told = {path: detail for _, path, detail in problems()}
    assert set(told) == {"README.txt", "content/files/a", "content/runtimes/r.squashfs"}
    assert "makes it from content/runtimes/r.squashfs of demo-1.0.0" in told["content/runtimes/r.squashfs"]
    assert "which the depot lacks" in problems(Blobs(tmp_path / "empty"))[-1][2]
    patch = patched_delta.path / patched_delta.patches[0].path
    whole = patch.read_bytes()
    patch.write_bytes(whole[:-1] + b"?")
    assert [p[:2] for p in problems(depot.blobs)] == [
        ("missing", "content/runtimes/r.squashfs"),
        ("changed", patched_delta.patches[0].path),
    ]
    patch.unlink()
    assert [p[:2] for p in problems(depot.blobs)] == [
        ("missing", "content/runtimes/r.squashfs"),
        ("missing", patched_delta.patches[0].path),
    ]


def test_a_delta_with_patches_crosses_on_volumes_in_any_order(
    patched_delta: delta.Delta, depot: Depot, base: Bundle, tmp_path: Path
) -> None:
    trusted = extended(open_bundle(patched_delta.path, base.root), patched_delta.patches)
    metadata = sum(p.stat().st_size for p in (patched_delta.path / "metadata").iterdir())
    size = volumes.RESERVE + metadata + sum(p.size for p in patched_delta.patches) + 2 * BLOCK
    split = volumes.layout(patched_delta.path, trusted, size=size, out=tmp_path / "volumes")
    assert len(split.media) == 2
    here = {t.sha256 for t in trusted.targets.values() if depot.blobs.has(t.sha256, t.size)}
    elsewhere = here | {p.target for p in patched_delta.patches}
    for number in range(1, len(split.media) + 1):
        volumes.write(patched_delta.path, trusted, split, number, NOW)
        assert volumes.check(split.media[number - 1], trusted, elsewhere) == []
    assert split.not_here == 2
    taken = [take_in(depot, medium) for medium in reversed(split.media)]
    assert [t.waiting for t in taken] == [(1,), ()]
    assert taken[-1].view is not None
    assert verify(taken[-1].view, base.root).good
    assert not (depot.blobs.root / "patches").exists()


def test_volumes_with_a_patch_for_a_base_that_is_not_there_name_it(
    patched_delta: delta.Delta, base: Bundle, tmp_path: Path
) -> None:
    trusted = extended(open_bundle(patched_delta.path, base.root), patched_delta.patches)
    split = volumes.layout(patched_delta.path, trusted, size=1 << 30, out=tmp_path / "volumes")
    volumes.write(patched_delta.path, trusted, split, 1, NOW)
    (tmp_path / "pin").write_bytes(base.root)
    with pytest.raises(TrustError, match=r"first content/runtimes/r\.squashfs of demo-1\.0\.0"):
        take_in(Depot(tmp_path / "empty"), split.media[0], root_json=tmp_path / "pin")


def test_the_receipt_tells_the_version_that_compresses(depot: Depot) -> None:
    assert receipt.gather(depot, None, NOW).libzstd == zstd.version()


def test_a_wheel_is_made_of_the_image_that_was_made_before_it(tmp_path: Path, keys: MemoryKeys) -> None:
    """The image of its old self, the wheel of the new image; whole, on volumes, and in what verify says."""
    old_files = {"runtimes/r.squashfs": OLD, "wheels/r-1.whl": archive({"r.py": TEXT})}
    base = make_bundle(tmp_path, old_files, keys=keys, now=NOW - timedelta(hours=1))
    wheel = archive({"r.py": CHANGED})
    following = make_bundle(tmp_path, {"runtimes/r.squashfs": NEW, "wheels/r-2.whl": wheel}, keys=keys, version="1.1.0")
    made = write(base, following, tmp_path / "delta")
    assert [p.base for p in made.patches] == [hashlib.sha256(OLD).hexdigest(), hashlib.sha256(NEW).hexdigest()]
    assert made.size < (len(NEW) + len(wheel)) * 0.1
    (tmp_path / "root.json").write_bytes(base.root)
    for name in ("depot", "by volumes"):
        depot = Depot(tmp_path / name)
        depot.import_bundle(base.path, root_json=tmp_path / "root.json")
        assert checked(made.path, verify(made.path, base.root), depot.blobs).good
        if name == "depot":
            view = depot.import_bundle(made.path).view
        else:
            trusted = extended(open_bundle(made.path, base.root), made.patches)
            split = volumes.layout(made.path, trusted, size=1 << 30, out=tmp_path / "volumes")
            volumes.write(made.path, trusted, split, 1, NOW)
            taken = take_in(depot, split.media[0])
            assert taken.view
            view = taken.view
        assert (view / "content/wheels/r-2.whl").read_bytes() == wheel
        assert verify(view, base.root).good
