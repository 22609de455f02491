"""Deltas carry exactly what is lacking, receipts say what is there, and garbage goes only when it was listed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from engine.errors import InputError, TrustError
from engine.report import Silent
from engine.verify import open_bundle, verify
from installer.carry import delta, garbage, receipt
from installer.carry.compare import difference, lacking
from installer.depot import Depot, targets_of
from installer.site import release
from installer.trust import signer
from tests.bundles import NOW, Bundle, MemoryKeys, make

BASE = {"models/m/a.bin": b"a" * 5000, "models/m/b.bin": b"b" * 7000, "files/gone": b"gone", "files/twice": b"a" * 5000}
NEXT = {"models/m/a.bin": b"a" * 5000, "models/m/b.bin": b"B" * 7000, "files/moved": b"gone", "files/new": b"new"}
PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def keys(tmp_path: Path) -> MemoryKeys:
    return MemoryKeys(tmp_path / "keys")


@pytest.fixture
def base(tmp_path: Path, keys: MemoryKeys) -> Bundle:
    return make(tmp_path, BASE, keys=keys, version="1.0.0", now=NOW - timedelta(hours=1))


@pytest.fixture
def following(tmp_path: Path, keys: MemoryKeys) -> Bundle:
    return make(tmp_path, NEXT, keys=keys, version="1.1.0")


@pytest.fixture
def depot(tmp_path: Path, base: Bundle) -> Depot:
    """A site that holds the base."""
    pin = tmp_path / "root.json"
    pin.write_bytes(base.root)
    depot = Depot(tmp_path / "depot")
    depot.import_bundle(base.path, root_json=pin)
    return depot


def files(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def test_a_difference_names_every_path_once_and_counts_moved_content_as_present(
    base: Bundle, following: Bundle
) -> None:
    found = difference(open_bundle(base.path, base.root), open_bundle(following.path, base.root))
    assert [(c.what, c.path) for c in found.changes] == [
        ("removed", "content/files/gone"),
        ("added", "content/files/moved"),
        ("added", "content/files/new"),
        ("removed", "content/files/twice"),
        ("changed", "content/models/m/b.bin"),
    ]
    assert [t.path for t in found.lacking] == ["content/files/new", "content/models/m/b.bin"]
    assert found.to_carry == 7003


def test_content_under_two_names_is_carried_once(base: Bundle) -> None:
    trusted = open_bundle(base.path, base.root)
    assert [t.path for t in lacking(trusted, [])] == [
        "README.txt",
        "content/files/gone",
        "content/files/twice",
        "content/models/m/b.bin",
    ]


def test_a_delta_imports_into_the_depot_that_has_its_base(
    tmp_path: Path, depot: Depot, base: Bundle, following: Bundle
) -> None:
    have = [t.sha256 for t in open_bundle(base.path, base.root).targets.values()]
    made = delta.write(following.path, open_bundle(following.path, base.root), tmp_path / "delta", have)
    assert {p for p in files(made.path) if not p.startswith("metadata/")} == {
        "content/files/new",
        "content/models/m/b.bin",
    }
    imported = depot.import_bundle(made.path)
    assert imported.copied == made.size == 7003
    assert verify(imported.view, base.root).good


def test_a_dry_run_sees_a_delta_with_what_the_depot_has_and_takes_nothing_in(
    tmp_path: Path, depot: Depot, base: Bundle, following: Bundle
) -> None:
    have = [t.sha256 for t in open_bundle(base.path, base.root).targets.values()]
    made = delta.write(following.path, open_bundle(following.path, base.root), tmp_path / "delta", have)
    before = files(depot.root)
    with release.to_look_at(depot, made.path, None, Silent()) as seen:
        assert seen.name == "demo-1.1.0"
        assert {p: (seen.view / p).read_bytes() for p in files(seen.view) if p.startswith("content/models")} == {
            f"content/{name}": data for name, data in NEXT.items() if name.startswith("models")
        }
        assert targets_of(seen.view).keys() == open_bundle(following.path, base.root).targets.keys()
    assert files(depot.root) == before


def test_a_dry_run_refuses_a_delta_of_another_base(tmp_path: Path, base: Bundle, following: Bundle) -> None:
    have = [t.sha256 for t in open_bundle(base.path, base.root).targets.values()]
    made = delta.write(following.path, open_bundle(following.path, base.root), tmp_path / "delta", have)
    (tmp_path / "pin").write_bytes(base.root)
    with (
        pytest.raises(TrustError, match="files are not as signed"),
        release.to_look_at(Depot(tmp_path / "empty"), made.path, tmp_path / "pin", Silent()),
    ):
        pytest.fail("it was shown")


def test_a_delta_against_another_base_says_what_is_missing_and_takes_nothing_in(
    tmp_path: Path, base: Bundle, following: Bundle
) -> None:
    have = [t.sha256 for t in open_bundle(base.path, base.root).targets.values()]
    made = delta.write(following.path, open_bundle(following.path, base.root), tmp_path / "delta", have)
    pin = tmp_path / "root.json"
    pin.write_bytes(base.root)
    empty = Depot(tmp_path / "empty")
    with pytest.raises(
        TrustError, match=r"3 files \(5,013 bytes\) are neither in the bundle nor in the depot"
    ) as refused:
        empty.import_bundle(made.path, root_json=pin)
    assert "appliance receipt" in refused.value.remedy
    assert empty.releases() == []


def test_a_changed_file_does_not_get_into_a_delta(tmp_path: Path, following: Bundle) -> None:
    trusted = open_bundle(following.path, following.root)
    victim = following.path / "content/files/new"
    victim.write_bytes(b"NEW")
    with pytest.raises(TrustError, match="not as signed"):
        delta.write(following.path, trusted, tmp_path / "delta", [])
    assert not (tmp_path / "delta").exists()


def test_a_receipt_lists_what_is_there_and_makes_the_exact_delta(
    tmp_path: Path, depot: Depot, base: Bundle, following: Bundle
) -> None:
    report = tmp_path / "runs" / "20261121T000000Z" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(
        json.dumps({"release": "demo-1.0.0", "good": True, "nodes": {"a": {}, "b": {}}, "failures": [{"node": "b"}]})
    )
    written = receipt.write(
        receipt.gather(depot, tmp_path / "runs", NOW), tmp_path / "r.json", tmp_path / "site", PASSPHRASE
    )
    read = receipt.read(written.path, written.public)
    assert [(r.release, r.name) for r in read.releases] == [("demo-1.0.0", "demo")]
    assert read.last_install
    assert read.last_install["nodes"] == {"a": "installed", "b": "failed"}
    made = delta.write(
        following.path, open_bundle(following.path, base.root), tmp_path / "delta", [c.sha256 for c in read.contents]
    )
    assert depot.import_bundle(made.path).copied == 7003


def test_a_receipt_does_not_promise_what_the_disk_lost(tmp_path: Path, depot: Depot, base: Bundle) -> None:
    lost = open_bundle(base.path, base.root).targets["content/models/m/b.bin"]
    depot.blobs.path(lost.sha256).unlink()
    assert lost.sha256 not in {c.sha256 for c in receipt.gather(depot, None, NOW).contents}


def test_a_receipt_of_another_site_or_changed_on_its_way_is_refused(tmp_path: Path, depot: Depot) -> None:
    written = receipt.write(receipt.gather(depot, None, NOW), tmp_path / "r.json", tmp_path / "site", PASSPHRASE)
    stranger = signer.new_file(tmp_path / "stranger", "site", PASSPHRASE)
    with pytest.raises(TrustError, match="not signed by this site"):
        receipt.read(written.path, stranger.path)
    data = json.loads(written.path.read_text())
    data["payload"] = data["payload"][:-8] + "AAAAAAA="
    written.path.write_text(json.dumps(data))
    with pytest.raises(TrustError, match="not signed by this site"):
        receipt.read(written.path, written.public)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"payload": 1}', "[" * 100_000])
def test_what_is_no_receipt_is_one_sentence(tmp_path: Path, text: str) -> None:
    site = signer.new_file(tmp_path / "site", "site", PASSPHRASE)
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(TrustError, match="not signed by this site"):
        receipt.read(tmp_path / "r.json", site.path)


def test_garbage_is_what_no_release_lists_and_goes_only_by_its_plan(
    tmp_path: Path, depot: Depot, base: Bundle, following: Bundle
) -> None:
    assert garbage.find(depot).contents == ()
    depot.import_bundle(following.path)
    depot.remove("demo-1.0.0")
    found = garbage.find(depot)
    old, new = (open_bundle(b.path, base.root) for b in (base, following))
    kept = {t.sha256 for t in new.targets.values()}
    assert set(found.contents) == {t.sha256 for t in old.targets.values()} - kept
    with pytest.raises(InputError, match="no longer what"):
        garbage.delete(depot, "0" * 16)
    assert garbage.delete(depot, found.plan).contents == found.contents
    assert garbage.find(depot).contents == ()
    assert verify(depot.view("demo-1.1.0"), base.root).good


def test_a_release_that_is_not_there_is_named(depot: Depot) -> None:
    with pytest.raises(InputError, match=r"no release ours-9 \(it has: demo-1\.0\.0\)"):
        depot.remove("ours-9")
