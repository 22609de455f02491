"""A node's key and certificate change places together, or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine import durable, process
from engine.daytwo import certify
from engine.errors import ApplianceError, TrustError
from engine.keys import ensure_key, request
from installer.pki import Authority, utc_now

SECRET = "correct horse battery staple"
NOW = utc_now()


class KilledError(BaseException):
    """The process ends here: nothing of ours runs after it."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "ca")
    made.create("site CA", SECRET, now=NOW)
    return made


def signed(authority: Authority, csr: str) -> str:
    return authority.sign_request(
        csr.encode(), kind="node", name="n", names=["n"], passphrase=SECRET, days=9, now=NOW
    ).decode()


@pytest.fixture
def pki(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's directory, with no edge running."""
    place = tmp_path / "pki"
    place.mkdir()
    ensure_key(place / "node.key")
    (place / "node.key").chmod(0o640)
    (place / "node.crt").write_text(signed(authority, request(place / "node.key", "n")))
    (place / "ca.crt").write_bytes(authority.certificate_path.read_bytes())
    (place / "crl.pem").write_bytes(authority.crl_path.read_bytes())
    monkeypatch.setattr(certify, "PKI", place)
    monkeypatch.setattr(certify, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(certify, "_edge", lambda: False)
    return place


def fits(pki: Path) -> bool:
    key = load_pem_private_key((pki / "node.key").read_bytes(), None)
    return x509.load_pem_x509_certificate((pki / "node.crt").read_bytes()).public_key() == key.public_key()


def asked(pki: Path) -> str:
    return str(certify.answer({"step": "request", "name": "n"})["csr"])


def test_a_new_pair_takes_the_place_of_the_old_one(pki: Path, authority: Authority) -> None:
    old = (pki / "node.key").read_bytes(), (pki / "node.crt").read_bytes()
    certificate = signed(authority, asked(pki))
    assert certify.answer({"step": "place", "certificate": certificate})["changed"] == ["node.crt"]
    assert fits(pki) and (pki / "node.key").read_bytes() != old[0] and (pki / "node.crt").read_text() == certificate
    assert (pki / "node.key").stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in pki.iterdir()) == ["ca.crt", "crl.pem", "node.crt", "node.key"]


def test_the_same_again_changes_nothing(pki: Path, authority: Authority) -> None:
    certificate = signed(authority, asked(pki))
    question = {"step": "place", "certificate": certificate, "ca": (pki / "ca.crt").read_text()}
    certify.answer(question)
    before = {p.name: p.stat().st_mtime_ns for p in pki.iterdir()}
    assert certify.answer(question)["changed"] == []
    assert before == {p.name: p.stat().st_mtime_ns for p in pki.iterdir()}


def test_a_certificate_for_another_key_is_refused_before_anything_changes(
    pki: Path, authority: Authority, tmp_path: Path
) -> None:
    asked(pki)
    ensure_key(tmp_path / "other.key")
    before = (pki / "node.crt").read_bytes()
    with pytest.raises(TrustError, match="cannot be used"):
        certify.answer({"step": "place", "certificate": signed(authority, request(tmp_path / "other.key", "n"))})
    with pytest.raises(TrustError, match="cannot be used"):
        certify.answer({"step": "place", "ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"})
    assert (pki / "node.crt").read_bytes() == before and fits(pki)


def test_what_the_edge_does_not_take_is_taken_back(
    pki: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = signed(authority, asked(pki))
    before = {p.name: p.read_bytes() for p in pki.iterdir() if p.name != "next.key"}
    reloads = []

    def run(argv: Sequence[str | Path], **settings: Any) -> Any:
        reloads.append(list(argv))
        if len(reloads) == 1:
            raise process.ProcessError([str(a) for a in argv], 1, "nginx: configuration file test failed")
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(certify, "_edge", lambda: True)
    monkeypatch.setattr(certify, "run", run)
    with pytest.raises(ApplianceError, match="configuration file test failed"):
        certify.answer({"step": "place", "certificate": certificate, "address": "192.0.2.1", "port": 1})
    assert {p.name: p.read_bytes() for p in pki.iterdir()} == before
    assert reloads == [["systemctl", "reload", certify.EDGE]] * 2


@pytest.mark.parametrize("kill_at", range(16))
def test_a_run_killed_anywhere_is_healed_by_the_next(
    kill_at: int, pki: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each change of the directory; after the next run starts, key and certificate belong together."""
    certificate = signed(authority, asked(pki))
    steps = 0

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps - 1 == kill_at:
                raise KilledError
            return real(*arguments, **named)

        return step

    with monkeypatch.context() as patched:
        for name in ("replace", "link", "rename", "mkdir", "unlink", "chown"):
            patched.setattr(os, name, killing(getattr(os, name)))
        patched.setattr(durable, "sync_dir", killing(durable.sync_dir))
        patched.setattr(certify, "_heal", lambda: None)  # a killed process puts nothing back
        try:
            certify.answer({"step": "place", "certificate": certificate, "crl": (pki / "crl.pem").read_text() + "\n"})
        except KilledError:
            pass
        else:
            assert steps <= kill_at
    told = certify.answer({"step": "request", "name": "n"})
    assert fits(pki), "healed before anything else is done"
    again = signed(authority, told["csr"])
    certify.answer({"step": "place", "certificate": again})
    assert fits(pki) and (pki / "node.crt").read_text() == again and not (pki / "previous").exists()


def test_workers_of_the_gateway_take_a_new_certificate_in_one_after_the_other(
    pki: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, real, done = signed(authority, asked(pki)), process.run, []

    def run(argv: Sequence[str | Path], **settings: Any) -> Any:
        if argv[0] != "systemctl":
            return real(argv, **settings)
        done.append(list(argv[1:]))
        listed = "appliance-gateway@2.service loaded active\nappliance-gateway@1.service loaded active\n"
        return SimpleNamespace(returncode=0, stdout=listed if argv[1] == "list-units" else "")

    monkeypatch.setattr(certify, "run", run)
    certify.answer({"step": "place", "certificate": certificate})
    assert done[1:] == [["restart", "appliance-gateway@1.service"], ["restart", "appliance-gateway@2.service"]]
    done.clear()
    certify.answer({"step": "place", "crl": (pki / "crl.pem").read_text() + "\n"})
    assert done == []
