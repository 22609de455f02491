"""What commands of the builder say and leave behind where a path, a passphrase or a hash is mistyped."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.errors import InputError, TrustError
from installer.cli.checking import check
from installer.cli.main import main
from installer.cli.screen import Screen
from installer.definition import Definition
from installer.kinds import Work, files
from installer.trust import kit, sign
from installer.trust.keys import KeyStore
from installer.trust.sign import Label
from tests.bundles import NOW, PASSPHRASE, make

WHEELS = [f"content/installer/node/{name}-1.0-py3-none-any.whl" for name in kit.NEEDED]


def said(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int) -> str:
    """All that a command prints, which ends with this exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    told = capsys.readouterr()
    assert ended.value.code == code, told.err
    return told.out + told.err


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    made = KeyStore(tmp_path / "keys")
    made.create(PASSPHRASE, root_keys=1, threshold=1, days=700, now=NOW)
    return made


@pytest.fixture
def with_verifier(tmp_path: Path, store: KeyStore) -> Path:
    """A bundle that has what a kit takes."""
    bundle = tmp_path / "ours-1.0.0"
    for path in WHEELS:
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(path.encode())
    targets = sign.targets_of(sign.digests_of(bundle, WHEELS), lambda p: Label("installer", ("gpu",)))
    sign.sign(bundle, targets, name="ours", release="ours-1.0.0", keys=store, passphrase=PASSPHRASE, days=30, now=NOW)
    return bundle


def test_a_mistyped_passphrase_does_not_become_that_of_the_kit_s_key(
    tmp_path: Path, store: KeyStore, with_verifier: Path
) -> None:
    with pytest.raises(InputError, match="cannot open the key"):
        kit.make(with_verifier, tmp_path / "kit", store, PASSPHRASE + " mistyped")
    assert not list(store.directory.glob(f"{kit.KEY}*")) and not (tmp_path / "kit").exists()
    made = kit.make(with_verifier, tmp_path / "kit", store, PASSPHRASE)
    assert (made.path / "SHA256SUMS.sig").is_file()


def test_a_kit_of_what_is_no_bundle_makes_no_key(tmp_path: Path, store: KeyStore) -> None:
    with pytest.raises(InputError, match="no such bundle"):
        kit.make(tmp_path / "nothing", tmp_path / "kit", store, PASSPHRASE)
    assert not list(store.directory.glob(f"{kit.KEY}*"))


def test_a_good_volume_is_not_called_a_good_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make(tmp_path, {f"files/{n}": bytes([n]) * 400_000 for n in range(4)})
    root = tmp_path / "root.json"
    root.write_bytes(bundle.root)
    said(capsys, "split", bundle.path, "--root", root, "--size", "2M", "--out", tmp_path / "volumes", code=0)
    volumes = sorted((tmp_path / "volumes").iterdir())
    assert len(volumes) > 1
    told = said(capsys, "verify", "--root", root, volumes[0], code=0)
    assert f"volume 1 of {len(volumes)} of demo-1.0.0 is good; the other volumes were not looked at" in told
    assert "demo-1.0.0 is good: " not in told
    document = json.loads(said(capsys, "--json", "verify", "--root", root, volumes[0], code=0))
    assert document["volume"] == {"number": 1, "of": len(volumes)}
    assert "demo-1.0.0 is good: " in said(capsys, "verify", "--root", root, bundle.path, code=0)


def test_a_good_parity_volume_is_not_called_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, root, out = make(tmp_path, {"files/a": b"a" * 100_000}), tmp_path / "root.json", tmp_path / "volumes"
    root.write_bytes(bundle.root)
    argv: list[str | Path] = ["split", bundle.path, "--root", root, "--size", "2M", "--out", out, "--parity", "1"]
    assert str(out / "demo-1.0.0.parity-1-of-1") in said(capsys, *argv, code=0)
    told = said(capsys, "verify", "--root", root, out / "demo-1.0.0.parity-1-of-1", code=2)
    assert "a parity volume is not signed" in told and "Do not use" not in told


def test_a_medium_that_is_not_mounted_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    (tmp_path / "root.json").write_bytes(bundle.root)
    argv: list[str | Path] = ["split", bundle.path, "--root", tmp_path / "root.json", "--media", tmp_path / "usb"]
    told = said(capsys, *argv, code=2)
    assert f"{tmp_path / 'usb'}: there is no such directory" in told and not (tmp_path / "usb").exists()
    (tmp_path / "usb").mkdir()
    said(capsys, *argv, code=0)


def test_a_depot_that_is_not_there_is_not_called_a_broken_bundle(tmp_path: Path) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    (bundle.path / "content/files/a").unlink()
    with pytest.raises(InputError, match="no such depot"):
        check(Screen(), bundle.path, bundle.root, "root.json", tmp_path / "depot")


def test_the_line_that_deletes_contents_names_the_depot_that_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, depot = make(tmp_path, {"files/a": b"a"}), tmp_path / "the depot"
    (tmp_path / "root.json").write_bytes(bundle.root)
    said(capsys, "import", bundle.path, "--root", tmp_path / "root.json", "--depot", depot, code=0)
    said(capsys, "depot", "remove", "demo-1.0.0", "--depot", depot, code=0)
    line = said(capsys, "depot", "gc", "--depot", depot, code=0).partition("exactly these: ")[2]
    words = shlex.split(line)
    assert words[:4] == ["appliance", "depot", "gc", "--delete"] and words[-2:] == ["--depot", str(depot)]
    assert "Deleted" in said(capsys, *words[1:], code=0)


def test_a_wrong_hash_in_a_definition_is_to_be_corrected_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    text = {
        "schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "files": [{"name": "a.txt", "url": "file:a.txt", "sha256": hashlib.sha256(b"b").hexdigest(), "profiles": ["gpu"]}],
    }  # fmt: skip
    with pytest.raises(TrustError) as refused:
        files.resolve(Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache")))
    assert "correct sha256 of the file a.txt in the definition" in refused.value.remedy
