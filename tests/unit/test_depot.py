"""The depot takes in what is signed, whole or not at all, and a killed import is completed by the next."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from engine.errors import InputError, ResourceError, TrustError
from engine.verify import open_bundle, verify
from installer.depot import Depot
from tests.bundles import NOW, Bundle, MemoryKeys, make

FILES = {"models/tiny/model.safetensors": os.urandom(300_000), "files/a.txt": b"a", "manifest.json": b'{"a": 1}'}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make(tmp_path, FILES)


@pytest.fixture
def root(tmp_path: Path, bundle: Bundle) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(bundle.root)
    return path


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    return Depot(tmp_path / "depot")


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_an_import_holds_every_signed_file_and_a_second_one_copies_nothing(
    depot: Depot, bundle: Bundle, root: Path
) -> None:
    first = depot.import_bundle(bundle.path, root_json=root)
    assert first.changed
    assert first.copied == sum(len(d) for d in FILES.values()) + len(b"a bundle\n")
    assert tree(first.view / "content") == tree(bundle.path / "content")
    second = depot.import_bundle(bundle.path)
    assert (second.changed, second.copied) == (False, 0)
    assert depot.manifest("demo-1.0.0") == {"a": 1}


def test_a_view_is_a_complete_repository_for_nodes(depot: Depot, bundle: Bundle, root: Path) -> None:
    view = depot.import_bundle(bundle.path, root_json=root).view
    assert {p.name for p in (view / "metadata").iterdir()} == {
        "1.root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    }


def test_a_later_change_of_the_medium_does_not_reach_the_depot(depot: Depot, bundle: Bundle, root: Path) -> None:
    view = depot.import_bundle(bundle.path, root_json=root).view
    (bundle.path / "content/files/a.txt").write_bytes(b"b")
    assert (view / "content/files/a.txt").read_bytes() == b"a"


def test_a_file_that_is_no_root_of_trust_is_named(depot: Depot, bundle: Bundle, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "passwd"
    other.write_text("root:x:0:0:root:/root:/bin/bash\n")
    with pytest.raises(TrustError, match="this is no root of trust: ") as refused:
        depot.import_bundle(bundle.path, root_json=other)
    assert (refused.value.where, refused.value.remedy) == (str(other), "Give the root.json that you received.")
    depot.import_bundle(bundle.path, root_json=root)
    depot.pinned_root.write_text("{}")
    with pytest.raises(TrustError) as damaged:
        depot.import_bundle(bundle.path)
    assert damaged.value.where == str(depot.pinned_root)


def test_an_unknown_release_leads_to_the_list_of_those_that_are_there(depot: Depot, bundle: Bundle, root: Path) -> None:
    depot.import_bundle(bundle.path, root_json=root)
    with pytest.raises(InputError, match=r"no release ours-9 \(it has: demo-1.0.0\)") as refused:
        depot.remove("ours-9")
    assert "`appliance depot list` shows" in refused.value.remedy


def test_the_first_import_needs_a_root_given_on_another_way(depot: Depot, bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no root of trust"):
        depot.import_bundle(bundle.path)


def test_another_root_does_not_replace_the_pinned_one(depot: Depot, bundle: Bundle, root: Path, tmp_path: Path) -> None:
    depot.import_bundle(bundle.path, root_json=root)
    stranger = make(tmp_path / "s", FILES)
    other = tmp_path / "other.json"
    other.write_bytes(stranger.root)
    with pytest.raises(TrustError, match="pins another root"):
        depot.import_bundle(stranger.path, root_json=other)


def test_a_flipped_bit_stops_the_import_and_is_named(depot: Depot, bundle: Bundle, root: Path) -> None:
    file = bundle.path / "content/models/tiny/model.safetensors"
    data = bytearray(file.read_bytes())
    data[1000] ^= 4
    file.write_bytes(data)
    with pytest.raises(TrustError) as refused:
        depot.import_bundle(bundle.path, root_json=root)
    assert refused.value.where == "content/models/tiny/model.safetensors"
    assert depot.releases() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: (b / "content/files/a.txt").unlink(), "neither in the bundle nor in the depot"),
        (lambda b: (b / "content/files/new.txt").write_text("x"), "covered by no signature"),
        (lambda b: (b / "content/files/link").symlink_to("a.txt"), "not as signed"),
    ],
)
def test_a_wrong_listing_is_refused_before_anything_is_copied(
    depot: Depot, bundle: Bundle, root: Path, change: Callable[[Path], object], said: str
) -> None:
    change(bundle.path)
    with pytest.raises(TrustError, match=said):
        depot.import_bundle(bundle.path, root_json=root)
    assert not (depot.root / "blobs" / "sha256").exists()


def test_an_older_bundle_is_refused_after_a_newer_one(depot: Depot, tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path)
    root = tmp_path / "root.json"
    root.write_bytes(keys.root_bytes())
    old = make(tmp_path, FILES, keys=keys, version="1.0.0", now=NOW - timedelta(hours=1))
    new = make(tmp_path, FILES, keys=keys, version="1.1.0")
    depot.import_bundle(new.path, root_json=root)
    with pytest.raises(TrustError, match="older"):
        depot.import_bundle(old.path)
    assert depot.releases() == ["demo-1.1.0"]


def test_too_little_space_is_said_before_anything_is_copied(
    depot: Depot, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _p: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="bytes too few are free"):
        depot.import_bundle(bundle.path, root_json=root)
    assert not (depot.root / "blobs" / "sha256").exists()


def test_a_blob_that_was_cut_is_completed_not_copied_again(depot: Depot, bundle: Bundle, root: Path) -> None:
    """Invariant: after a kill in the middle, the next import copies only the rest."""
    data = FILES["models/tiny/model.safetensors"]
    sha256 = open_bundle(bundle.path, bundle.root).targets["content/models/tiny/model.safetensors"].sha256
    partial = depot.blobs.root / "partial" / sha256
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:200_000])
    done = depot.import_bundle(bundle.path, root_json=root)
    assert done.copied == sum(len(d) for d in FILES.values()) + len(b"a bundle\n") - 200_000
    assert tree(done.view / "content") == tree(bundle.path / "content")


def test_a_partial_with_wrong_bytes_does_not_poison_the_next_import(depot: Depot, bundle: Bundle, root: Path) -> None:
    target = open_bundle(bundle.path, bundle.root).targets["content/models/tiny/model.safetensors"]
    partial = depot.blobs.root / "partial" / target.sha256
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"\0" * 1000)
    with pytest.raises(TrustError):
        depot.import_bundle(bundle.path, root_json=root)
    assert depot.import_bundle(bundle.path).changed  # the wrong bytes were thrown away


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_a_linked_import_makes_the_bundle_s_files_the_depot_s_and_read_only(
    depot: Depot, bundle: Bundle, root: Path
) -> None:
    done = depot.import_bundle(bundle.path, root_json=root, link=True)
    assert (done.changed, done.copied) == (True, 0)
    for file in FILES:
        assert inode(done.view / "content" / file) == inode(bundle.path / "content" / file)
        assert (done.view / "content" / file).stat().st_mode & 0o777 == 0o444
    assert verify(done.view, bundle.root).findings == ()


def test_a_file_that_somebody_may_still_write_is_copied(depot: Depot, bundle: Bundle, root: Path) -> None:
    with (bundle.path / "content/files/a.txt").open("r+b") as writer:
        view = depot.import_bundle(bundle.path, root_json=root, link=True).view
        writer.write(b"b")
    assert (view / "content/files/a.txt").read_bytes() == b"a"
    assert inode(view / "content/manifest.json") == inode(bundle.path / "content/manifest.json")


def test_somebody_else_s_files_are_copied(
    depot: Depot, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.blobs.os.geteuid", lambda: 12345)
    done = depot.import_bundle(bundle.path, root_json=root, link=True)
    assert done.copied == done.trusted.size
    assert not any(inode(done.view / "content" / f) == inode(bundle.path / "content" / f) for f in FILES)


def test_a_damaged_file_is_not_linked(depot: Depot, bundle: Bundle, root: Path) -> None:
    file = bundle.path / "content/models/tiny/model.safetensors"
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    with pytest.raises(TrustError, match="not what was promised"):
        depot.import_bundle(bundle.path, root_json=root, link=True)
    assert not any(p.stat().st_ino == inode(file) for p in depot.root.rglob("*"))
    assert depot.releases() == []
