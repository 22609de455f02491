"""A node makes its own key, keeps it, and can tell by itself whether what it got back is right."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from engine import keys
from engine.errors import ApplianceError, TrustError
from installer.pki import Authority, Kind, utc_now

SECRET = "correct horse battery staple"
NOW = utc_now()
NAMES = ["gpu-1", "2001:db8::21"]


def ask(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    assert keys.main([str(a) for a in arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_a_key_is_made_once_private_and_p256(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pki" / "node.key"
    first = ask(capsys, "csr", "--key", path, "--name", "gpu-1")
    made = path.read_bytes()
    second = ask(capsys, "csr", "--key", path, "--name", "gpu-1")
    assert (first["changed"], second["changed"]) == (True, False)
    assert path.read_bytes() == made
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_pem_private_key(made, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_the_request_is_signed_by_the_key_and_holds_no_private_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = ask(capsys, "csr", "--key", tmp_path / "node.key", "--name", "gpu-1")
    request = x509.load_pem_x509_csr(str(answer["csr"]).encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=gpu-1"
    assert "PRIVATE" not in json.dumps(answer)


def test_a_dry_run_makes_no_key_and_says_that_it_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.key"
    assert ask(capsys, "csr", "--key", path, "--name", "a", "--dry-run") == {"csr": "", "changed": True}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o602])
def test_a_key_that_others_could_have_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    keys.ensure_key(path)
    path.chmod(mode)
    with pytest.raises(TrustError, match="others could read or change"):
        keys.request(path, "gpu-1")


def test_a_key_may_be_shared_with_one_group(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keys.ensure_key(path)
    path.chmod(0o640)
    assert "CERTIFICATE REQUEST" in keys.request(path, "gpu-1")


def test_what_is_no_key_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(ApplianceError, match="cannot read it"):
        keys.request(path, "gpu-1")
    path.write_text("nonsense")
    path.chmod(0o600)
    with pytest.raises(ApplianceError, match="not the node's key"):
        keys.request(path, "gpu-1")
    path.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ApplianceError, match="not P-256"):
        keys.request(path, "gpu-1")


# -- check --------------------------------------------------------------------------------------------------------
class Node:
    """A node's directory as the role pki leaves it."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "pki"
        self.authority = Authority(place / "ca")
        self.authority.create("test CA", SECRET, now=NOW)
        keys.ensure_key(self.directory / "node.key")
        self.carry()
        self.certify()

    def carry(self) -> None:
        for path in (self.authority.certificate_path, self.authority.crl_path):
            (self.directory / path.name).write_bytes(path.read_bytes())

    def certify(self, kind: Kind = "node", days: int = 30) -> None:
        pem = self.authority.sign_request(
            keys.request(self.directory / "node.key", "gpu-1").encode(),
            kind=kind, name="gpu-1", names=NAMES, passphrase=SECRET, days=days, now=NOW,
        )  # fmt: skip
        (self.directory / "node.crt").write_bytes(pem)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_what_the_role_leaves_is_good(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(capsys, "check", "--dir", node.directory, "--name", "2001:DB8:0::21", "--name", "gpu-1")
    assert answer == {"good": True}


def refused(node: Node, why: str, *, names: list[str] = NAMES, days: float = 0) -> None:
    with pytest.raises(TrustError, match=why):
        keys.check(node.directory, names, now=NOW + timedelta(days=days))


def test_another_name_is_seen(node: Node) -> None:
    refused(node, "carries other names", names=["gpu-1"])
    refused(node, "carries other names", names=[*NAMES, "gateway"])


def test_expiry_and_a_clock_that_went_back_are_seen(node: Node) -> None:
    keys.check(node.directory, NAMES, now=NOW + timedelta(days=29))
    refused(node, "has expired", days=30)
    refused(node, "not valid yet", days=-1)


def test_another_key_is_seen(node: Node) -> None:
    (node.directory / "node.key").unlink()
    keys.ensure_key(node.directory / "node.key")
    refused(node, "another key")


def test_another_kind_of_certificate_is_seen(node: Node) -> None:
    node.certify(kind="client")
    refused(node, "not for a node")


def test_revocation_is_seen(node: Node) -> None:
    node.authority.revoke("gpu-1", passphrase=SECRET, now=NOW)
    keys.check(node.directory, NAMES, now=NOW)  # the list has not been carried to the node yet
    node.carry()
    refused(node, "is revoked")


def test_a_stranger_s_authority_of_the_same_name_is_seen(node: Node, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    stranger.create("test CA", SECRET, now=NOW)
    (node.directory / "crl.pem").write_bytes(stranger.crl_path.read_bytes())
    refused(node, "revocation list is not this authority's")
    (node.directory / "ca.crt").write_bytes(stranger.certificate_path.read_bytes())
    refused(node, "not issued by this authority")


@pytest.mark.parametrize("name", ["node.crt", "ca.crt", "crl.pem"])
def test_a_damaged_or_missing_file_is_a_sentence(node: Node, name: str) -> None:
    (node.directory / name).write_text("nonsense")
    refused(node, "damaged")
    (node.directory / name).unlink()
    with pytest.raises(ApplianceError, match="cannot read it"):
        keys.check(node.directory, NAMES, now=NOW)
