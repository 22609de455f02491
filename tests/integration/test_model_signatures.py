"""Model signatures made and verified by the real model_signing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engine.errors import InputError, ResourceError, TrustError
from installer import modelsignature
from installer.kinds import models
from tests.integration.hub_double import REVISION, Repo, running
from tests.integration.test_models import REPO, TINY, build, folder, work_for

PROGRAM = Path(sys.executable).parent / "model_signing"


def make_key(directory: Path, name: str) -> Path:
    """NAME.pem and NAME.pub; returns the private one."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = directory / f"{name}.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A model folder with model.sig, and the maker's key beside it."""
    directory, key = folder(tmp_path), make_key(tmp_path, "maker")
    sign(directory, "key", "--private_key", key)
    return directory


def sign(directory: Path, *how: str | Path) -> None:
    subprocess.run(
        [PROGRAM, "sign", how[0], *how[1:], "--signature", directory / "model.sig", directory],
        check=True,
        capture_output=True,
    )


def work(base: Path, *, key: str = "maker.pub", **model: Any) -> Any:
    return work_for(base, **{"path": "model", "signature": {"public_key": key}, **model})


def test_a_signed_folder_crosses_with_its_signature_and_the_outcome(signed: Path, tmp_path: Path) -> None:
    mine = work(tmp_path)
    artifacts = models.resolve(mine)
    assert build(mine, artifacts, tmp_path / "content") == TINY | {"model.sig": (signed / "model.sig").read_bytes()}
    for artifact in artifacts:
        assert "signature: model-signing verified model.sig sha256:" in artifact.notes[0]
        assert "with key maker.pub sha256:" in artifact.notes[0]
    subprocess.run(  # whoever gets the bundle can do the same with the upstream tool
        [PROGRAM, "verify", "key", "--public_key", tmp_path / "maker.pub", "--signature",
         tmp_path / "content/models/tiny/model.sig", tmp_path / "content/models/tiny"], check=True, capture_output=True,
    )  # fmt: skip
    assert not list(mine.cache.root.glob("signed-*"))


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    make_key(tmp_path, "stranger")
    with pytest.raises(TrustError, match="signature does not hold: Key mismatch"):
        models.resolve(work(tmp_path, key="stranger.pub"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [("changed", r"Hash mismatch for 'config\.json'"), ("extra", r"Extra files.*notes\.txt"), ("lost", "README.md")],
)
def test_a_folder_that_is_not_what_was_signed_is_refused(harm: str, reason: str, signed: Path, tmp_path: Path) -> None:
    if harm == "changed":
        (signed / "config.json").write_bytes((signed / "config.json").read_bytes() + b"\n")
    elif harm == "extra":
        (signed / "notes.txt").write_text("nobody signed this")
    else:
        (signed / "README.md").unlink()
    with pytest.raises(TrustError, match=f"signature does not hold: Signature mismatch.*{reason}"):
        models.resolve(work(tmp_path, licence="MIT"))


def test_a_forged_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    (signed / "model.sig").write_text("{}")
    with pytest.raises(TrustError, match="signature does not hold"):
        models.resolve(work(tmp_path))


def test_a_model_without_the_demanded_signature_is_refused(signed: Path, tmp_path: Path) -> None:
    (signed / "model.sig").unlink()
    with pytest.raises(TrustError, match=r"there is no signature file model\.sig"):
        models.resolve(work(tmp_path))


def test_a_lock_without_the_signature_is_refused_at_build(signed: Path, tmp_path: Path) -> None:
    mine = work(tmp_path)
    artifacts = models.resolve(mine)
    models.fetch(mine, artifacts)
    with pytest.raises(TrustError, match="there is no signature file"):
        models.check(mine, [a for a in artifacts if not a.path.endswith("model.sig")])
    with pytest.raises(TrustError, match="signature does not hold"):
        models.check(mine, [a for a in artifacts if not a.path.endswith("tokenizer.json")])


def test_a_key_exchanged_after_the_lock_is_refused_at_build(signed: Path, tmp_path: Path) -> None:
    mine = work(tmp_path)
    artifacts = models.resolve(mine)
    models.fetch(mine, artifacts)
    make_key(tmp_path, "maker")
    with pytest.raises(TrustError, match="Key mismatch"):
        models.check(mine, artifacts)


def test_a_hub_repository_is_verified_before_it_is_locked(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {p.name: p.read_bytes() for p in signed.iterdir()}
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.repos[REPO] = Repo(files | {".gitattributes": b"*.safetensors lfs\n"})
        mine = work(tmp_path, path=None, hub=REPO, revision=REVISION)
        artifacts = models.resolve(mine)
        assert build(mine, artifacts, tmp_path / "content") == files
        hub.repos[REPO] = Repo(files | {"added.txt": b"by somebody else"})
        with pytest.raises(TrustError, match=r"Extra files.*added\.txt"):
            models.resolve(mine)


def test_a_certificate_must_chain_to_the_named_one(tmp_path: Path) -> None:
    directory = folder(tmp_path)
    for name in ("maker", "stranger"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt",
             "-addext", "keyUsage=critical,digitalSignature,keyCertSign"],
            check=True, capture_output=True, cwd=tmp_path,
        )  # fmt: skip
    subprocess.run(
        ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=leaf",
         "-keyout", "leaf.key", "-x509", "-CA", "maker.crt", "-CAkey", "maker.key", "-days", "2", "-out", "leaf.crt",
         "-addext", "keyUsage=critical,digitalSignature", "-addext", "extendedKeyUsage=codeSigning",
         "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    sign(
        directory, "certificate", "--private_key", tmp_path / "leaf.key",
        "--signing_certificate", tmp_path / "leaf.crt", "--certificate_chain", tmp_path / "maker.crt",
    )  # fmt: skip
    artifacts = models.resolve(work_for(tmp_path, path="model", signature={"certificates": ["maker.crt"]}))
    assert "with certificate maker.crt sha256:" in artifacts[0].notes[0]
    with pytest.raises(TrustError, match="signature does not hold"):
        models.resolve(work_for(tmp_path, path="model", signature={"certificates": ["stranger.crt"]}))


def test_what_is_missing_on_the_builder_is_named(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot read a key of model"):
        models.resolve(work(tmp_path, key="absent.pub"))
    # Of this module alone: the builder's pip is asked with the same interpreter.
    monkeypatch.setattr(modelsignature, "sys", SimpleNamespace(executable=str(tmp_path / "bin/python")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="model_signing is not installed"):
        models.resolve(work(tmp_path))
