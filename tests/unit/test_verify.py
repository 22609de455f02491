"""A bundle that is not exactly as signed is refused, and the file is named."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, TargetFile, Targets

from engine import tree
from engine.errors import InputError, TrustError
from engine.memory import Memory
from engine.verify import open_bundle, verify
from installer.trust import sign
from tests.bundles import NOW, Bundle, MemoryKeys, make

FILES = {"models/tiny/model.safetensors": b"weights" * 1000, "files/a.txt": b"a", "manifest.json": b"{}"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make(tmp_path, FILES)


def problems(bundle: Bundle) -> list[tuple[str, str]]:
    return [(f.problem, f.path) for f in verify(bundle.path, bundle.root).findings]


def test_a_good_bundle_has_no_findings(bundle: Bundle) -> None:
    outcome = verify(bundle.path, bundle.root)
    assert outcome.good
    assert outcome.trusted.release == "demo-1.0.0"
    assert set(outcome.trusted.targets) == {f"content/{f}" for f in FILES} | {"README.txt"}


@pytest.mark.parametrize("path", [f"content/{f}" for f in FILES] + ["README.txt"])
def test_one_flipped_bit_is_named_wherever_it_is(bundle: Bundle, path: str) -> None:
    file = bundle.path / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert problems(bundle) == [("changed", path)]


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "content/files/a.txt").unlink()
    assert problems(bundle) == [("missing", "content/files/a.txt")]


def test_an_extra_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "content/files/b.txt").write_text("b")
    assert problems(bundle) == [("extra", "content/files/b.txt")]


def test_a_renamed_file_is_missing_and_extra(bundle: Bundle) -> None:
    (bundle.path / "content/files/a.txt").rename(bundle.path / "content/files/c.txt")
    assert problems(bundle) == [("missing", "content/files/a.txt"), ("extra", "content/files/c.txt")]


def test_a_longer_file_is_refused_without_hashing(bundle: Bundle) -> None:
    with (bundle.path / "content/files/a.txt").open("ab") as file:
        file.write(b"more")
    finding = verify(bundle.path, bundle.root).findings[0]
    assert finding.problem == "changed"
    assert finding.detail == "5 bytes, signed 1"


def test_a_link_in_place_of_a_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    file = bundle.path / "content/files/a.txt"
    file.rename(copy)
    file.symlink_to(copy)
    assert problems(bundle) == [("link", "content/files/a.txt")]


def test_a_linked_directory_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "content/files").rename(tmp_path / "files")
    (bundle.path / "content/files").symlink_to(tmp_path / "files")
    assert ("link", "content/files") in problems(bundle)
    assert ("missing", "content/files/a.txt") in problems(bundle)


def test_a_fifo_does_not_hang_the_check(bundle: Bundle) -> None:
    file = bundle.path / "content/files/a.txt"
    file.unlink()
    os.mkfifo(file)
    assert problems(bundle) == [("special", "content/files/a.txt")]


def test_a_file_beside_the_metadata_is_unsigned(bundle: Bundle) -> None:
    (bundle.path / "metadata/evil.json").write_text("{}")
    (bundle.path / "metadata/7.root.json").write_text("{}")
    assert problems(bundle) == [("unsigned", "metadata/7.root.json"), ("unsigned", "metadata/evil.json")]


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_any_flipped_bit_in_metadata_is_refused(bundle: Bundle, role: str) -> None:
    file = bundle.path / f"metadata/{role}.json"
    text = file.read_text()
    file.write_text(text.replace('"spec_version": "1.0', '"spec_version": "1.1', 1))
    with pytest.raises(TrustError):
        verify(bundle.path, bundle.root)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_missing_metadata_is_refused(bundle: Bundle, role: str) -> None:
    (bundle.path / f"metadata/{role}.json").unlink()
    with pytest.raises(TrustError, match="not complete"):
        verify(bundle.path, bundle.root)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_metadata_from_another_bundle_of_the_same_keys_is_refused(bundle: Bundle, tmp_path: Path, role: str) -> None:
    other = make(
        tmp_path / "other", {"files/a.txt": b"b"}, keys=bundle.keys, version="2.0.0", now=NOW + timedelta(seconds=5)
    )
    (bundle.path / f"metadata/{role}.json").write_bytes((other.path / f"metadata/{role}.json").read_bytes())
    with pytest.raises(TrustError):
        verify(bundle.path, bundle.root)


def test_an_unknown_signer_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    stranger = make(tmp_path / "stranger", FILES)
    with pytest.raises(TrustError, match="not signed by the keys"):
        verify(stranger.path, bundle.root)


def test_a_root_signed_below_its_threshold_is_refused(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path, threshold=2)
    root = Metadata.from_bytes(keys.roots[1]).signed
    root.version = 2
    keys.roots[2] = keys.signed_root(root, keys.root_signers[:1])
    bundle = make(tmp_path, FILES, keys=keys)
    with pytest.raises(TrustError, match="not signed by the keys"):
        verify(bundle.path, bundle.root)


def test_a_rotated_root_signed_by_the_threshold_is_followed(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path, threshold=2)
    root = Metadata.from_bytes(keys.roots[1]).signed
    root.version = 2
    keys.roots[2] = keys.signed_root(root, keys.root_signers[1:])
    bundle = make(tmp_path, FILES, keys=keys)
    outcome = verify(bundle.path, bundle.root)
    assert outcome.good
    assert outcome.trusted.root_version == 2


def test_expired_metadata_is_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path, FILES, now=NOW - timedelta(days=40), days=30)
    with pytest.raises(TrustError, match="expired"):
        verify(bundle.path, bundle.root)


def test_an_older_bundle_is_refused_once_a_newer_one_was_seen(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path)
    old = make(tmp_path, FILES, keys=keys, version="1.0.0", now=NOW - timedelta(hours=1))
    new = make(tmp_path, FILES, keys=keys, version="1.1.0")
    memory = Memory(tmp_path / "memory", keys.root_bytes())
    open_bundle(new.path, keys.root_bytes(), memory)
    with pytest.raises(TrustError, match="older"):
        open_bundle(old.path, keys.root_bytes(), memory)


@pytest.mark.parametrize(
    "path",
    ["../outside", "/etc/passwd", "content/../../x", "a//b", "content/./x", "a\\b", "a\nb", "e\u0301", "", "x" * 2000],
)
def test_a_signed_path_that_could_climb_out_is_refused_and_shown(tmp_path: Path, path: str) -> None:
    """Even a good signature does not make such a path usable."""
    bundle = make(tmp_path, FILES)
    old = Metadata[Targets].from_file(str(bundle.path / "metadata/targets.json")).signed
    targets = {**old.targets, path: TargetFile(1, {"sha256": "0" * 64}, path)}
    sign.sign(bundle.path, targets, name="demo", release="demo-1.0.0", keys=bundle.keys, passphrase="", days=1, now=NOW)
    with pytest.raises(TrustError, match="path"):
        verify(bundle.path, bundle.root)


def test_names_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path, {"files/A.txt": b"1", "files/a.txt": b"2"})
    with pytest.raises(TrustError, match="differ only in case"):
        verify(bundle.path, bundle.root)


def test_a_directory_that_is_no_bundle_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        verify(tmp_path, b"{}")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), role=st.sampled_from(["timestamp", "snapshot", "targets"]))
def test_damaged_metadata_never_passes_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, role: str
) -> None:
    """Invariant: whatever bytes are there, the outcome is the signed one or a TrustError."""
    bundle = make(tmp_path_factory.mktemp("fuzz"), FILES)
    file = bundle.path / f"metadata/{role}.json"
    raw = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "insert", "replace"]))
    if how == "flip":
        raw[at] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        raw = raw[:at]
    elif how == "insert":
        raw[at:at] = data.draw(st.binary(min_size=1, max_size=64))
    else:
        raw = bytearray(data.draw(st.binary(max_size=300)))
    file.write_bytes(raw)
    try:
        outcome = verify(bundle.path, bundle.root)
    except TrustError:
        return
    # python-tuf checks the meaning of the metadata: a change in white space alone leaves it as it was.
    assert outcome.good
    assert set(outcome.trusted.targets) == {f"content/{f}" for f in FILES} | {"README.txt"}


@given(st.text(max_size=300))
def test_an_accepted_path_stays_below_any_root(path: str) -> None:
    try:
        tree.check_path(path)
    except TrustError:
        return
    joined = os.path.normpath(os.path.join("/root/of/bundle", path))  # noqa: PTH118
    assert joined.startswith("/root/of/bundle/")
