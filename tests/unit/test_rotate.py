"""Rotation of certificates and of the authority: whoever talks to whom before, can at every moment in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from engine import keys as engine_keys
from engine.errors import InputError, NodeError
from engine.report import Silent
from installer.pki import Authority, utc_now
from installer.pki.succession import Succession
from installer.site.errand import Reply
from installer.site.inventory import Host, Inventory
from installer.site.rotate import Outcome, Rotation, names_of
from installer.site.settings import Site

SECRET = "correct horse battery staple"
HOSTS = (
    Host("edge-1", "192.0.2.1", ("gateway",)),
    Host("gpu-1", "192.0.2.2", ("gpu",)),
    Host("gpu-2", "192.0.2.3", ("gpu",)),
)
NOW = utc_now()


class CutError(Exception):
    """Stands for the end of the process, wherever it happens."""


@dataclass
class Nodes:
    """Three nodes as the errand `certify` leaves them; ``cut_at`` ends the process before that many questions are answered."""

    authority: Authority
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    clients: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # name: certificate, and the authorities it came with
    asked: int = 0
    cut_at: int = -1
    broken: str = ""

    def __post_init__(self) -> None:
        for host in HOSTS:
            certificate = self.authority.sign_request(
                self.csr(), kind="node", name=host.name, names=[host.name], passphrase=SECRET, days=20, now=NOW
            )
            self.held[host.name] = {
                "node.crt": certificate.decode(),
                "ca.crt": self.authority.certificate_path.read_text(),
                "crl.pem": self.authority.crl_path.read_text(),
            }

    @staticmethod
    def csr() -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever a node says")])
        return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # fmt: skip

    def send(self, host: Host, _connection: Any, verb: str, question: Mapping[str, Any]) -> Reply:
        assert verb == "certify"
        if self.asked == self.cut_at:
            raise CutError
        self.asked += 1
        held = self.held[host.name]
        if question["step"] in ("look", "request"):
            return Reply(host.name, {"files": dict(held), "csr": self.csr().decode(), "edge": True})
        if host.name == self.broken:
            return Reply(host.name, None, "the edge does not serve it", "Look at it.")
        new = {"node.crt": question.get("certificate", ""), "ca.crt": question.get("ca", ""), "crl.pem": question.get("crl", "")}  # fmt: skip
        changed = [n for n, text in new.items() if text and text != held[n]]
        held.update({n: new[n] for n in changed})
        self.everybody_talks()
        return Reply(host.name, {"changed": changed})

    def client(self, name: str) -> None:
        """What `certs client` hands out now."""
        _, certificate = self.authority.issue(kind="client", name=name, names=[], passphrase=SECRET, days=90, now=NOW)
        self.clients[name] = (certificate.decode(), self.authority.certificate_path.read_text())

    def everybody_talks(self) -> None:
        """Every node takes every other and every client, and the other way round; and has a list of every authority it trusts."""
        for one in self.held.values():
            for other in self.held.values():
                assert issued(other["node.crt"], one["ca.crt"])
            for certificate, trusted in self.clients.values():
                assert issued(certificate, one["ca.crt"]) and issued(one["node.crt"], trusted)
            lists = {x509.load_pem_x509_crl(part.encode()).issuer for part in crls(one["crl.pem"])}
            assert {c.subject for c in x509.load_pem_x509_certificates(one["ca.crt"].encode())} <= lists


def crls(text: str) -> list[str]:
    end = "-----END X509 CRL-----\n"
    return [part + end for part in text.split(end)[:-1]]


def issued(certificate: str, authorities: str) -> bool:
    one = x509.load_pem_x509_certificate(certificate.encode())
    for authority in x509.load_pem_x509_certificates(authorities.encode()):
        if authority.subject == one.issuer:
            one.verify_directly_issued_by(authority)
            return True
    return False


def serials(nodes: Nodes) -> dict[str, int]:
    return {n: x509.load_pem_x509_certificate(h["node.crt"].encode()).serial_number for n, h in nodes.held.items()}


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    authority = Authority(tmp_path / "ca")
    authority.create("site CA", SECRET, now=NOW)
    return Nodes(authority)


def rotation(nodes: Nodes, *, check: bool = False, now: datetime = NOW) -> Rotation:
    site = Site.model_validate({"control": {"address": "192.0.2.9"}, "management_sources": ["192.0.2.9"]})
    inventory = Inventory(Path("site"), HOSTS, site)
    names = names_of(inventory, {"edge-1": {"appliance_names": ["llm.example.internal"]}})
    succession = Succession(nodes.authority.directory)
    return Rotation(inventory, names, succession, SECRET, Silent(), clock=lambda: now, check=check, send=nodes.send)


def test_every_node_gets_another_certificate_with_the_names_of_the_inventory(nodes: Nodes) -> None:
    nodes.client("team-a")
    before = serials(nodes)
    done = rotation(nodes).leaves()
    assert not set(before.values()) & set(serials(nodes).values()) and done.nodes["gpu-1"]["days_left"] == 20
    certificate = x509.load_pem_x509_certificate(nodes.held["edge-1"]["node.crt"].encode())
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(n.value) for n in sans} == {"edge-1", "192.0.2.1", "llm.example.internal"}
    assert nodes.authority.renewal_reason(
        nodes.held["gpu-2"]["node.crt"].encode(), nodes.csr(), names=["gpu-2", "192.0.2.3", "inference.appliance.internal"],
        renew_before_days=60, now=NOW,
    ) == "the node has another key"  # fmt: skip


def test_one_node_alone_and_none_that_is_not_there(nodes: Nodes) -> None:
    before = serials(nodes)
    rotation(nodes).leaves(["gpu-1"])
    assert {n for n, s in serials(nodes).items() if s != before[n]} == {"gpu-1"}
    with pytest.raises(InputError, match="gpu-9 is not in the inventory"):
        rotation(nodes).leaves(["gpu-9"])


def test_a_dry_run_asks_and_changes_nothing(nodes: Nodes) -> None:
    before, files = serials(nodes), sorted(p.name for p in nodes.authority.directory.parent.iterdir())
    assert rotation(nodes, check=True).leaves().nodes["edge-1"] == {"days_left": 20, "serial": ""}
    assert "would be made" in rotation(nodes, check=True).authority().next
    assert serials(nodes) == before and files == sorted(p.name for p in nodes.authority.directory.parent.iterdir())


def test_old_certificates_are_revoked_when_asked_and_every_node_learns_it(nodes: Nodes) -> None:
    old = serials(nodes)
    rotation(nodes).leaves(revoke_old=True)
    for held in nodes.held.values():
        revoked = x509.load_pem_x509_crl(held["crl.pem"].encode())
        assert {r.serial_number for r in revoked} == set(old.values())


def test_a_node_that_does_not_take_its_certificate_ends_the_rotation_there(nodes: Nodes) -> None:
    before = serials(nodes)
    nodes.broken = "gpu-1"
    with pytest.raises(NodeError, match="edge does not serve") as refused:
        rotation(nodes).leaves()
    assert refused.value.where == "gpu-1" and "run the rotation again" in refused.value.remedy
    assert {n for n, s in serials(nodes).items() if s != before[n]} == {"edge-1"}


def test_an_authority_is_replaced_in_steps_that_shut_nobody_out(nodes: Nodes) -> None:
    nodes.client("team-a")
    nodes.client("team-b")
    nodes.client("gone")
    waits = rotation(nodes).authority()
    assert (waits.stage, waits.waiting) == ("clients", ["gone", "team-a", "team-b"])
    with pytest.raises(InputError, match="would not know the new certificates"):
        rotation(nodes).leaves()
    with pytest.raises(InputError, match="too early to drop"):
        rotation(nodes).authority(drop_old=True)
    nodes.client("team-a")
    assert rotation(nodes).authority().waiting == ["gone", "team-b"]
    nodes.client("team-b")
    nodes.authority.revoke(
        "gone", passphrase=SECRET, now=NOW
    )  # issued by the old authority, in whose list it stands now
    del nodes.clients["gone"]
    done = rotation(nodes).authority()
    assert (done.stage, done.waiting) == ("leaves", []) and "--drop-old" in done.next
    new = nodes.authority.itself().name
    assert new == "site CA 2"
    assert all(
        new in x509.load_pem_x509_certificate(h["node.crt"].encode()).issuer.rfc4514_string()
        for h in nodes.held.values()
    )
    old_list, new_list = (x509.load_pem_x509_crl(c.encode()) for c in reversed(crls(nodes.held["gpu-1"]["crl.pem"])))
    assert (len(old_list), len(new_list)) == (1, 0)
    for name in nodes.clients:
        nodes.clients[name] = (nodes.clients[name][0], nodes.authority.certificate_path.read_text())
    assert rotation(nodes).authority(drop_old=True).stage == "none"
    for held in nodes.held.values():
        assert len(x509.load_pem_x509_certificates(held["ca.crt"].encode())) == 1 == len(crls(held["crl.pem"]))
    places = sorted(p.name for p in nodes.authority.directory.parent.iterdir())
    assert places[0] == "ca" and places[1].startswith("ca-retired-") and len(places) == 2
    assert not (nodes.authority.directory.parent / places[1] / "ca.key").exists()
    assert (nodes.authority.directory.parent / places[1] / "register.json").exists()


def test_a_client_whose_certificate_ran_out_holds_nobody_up(nodes: Nodes) -> None:
    nodes.client("team-a")
    assert rotation(nodes).authority().waiting == ["team-a"]
    nodes.clients.clear()
    assert rotation(nodes, now=NOW + timedelta(days=91)).authority().stage == "leaves"


@pytest.mark.parametrize("cut_at", range(14))
def test_a_replacement_cut_anywhere_is_completed_by_the_next_run_and_shuts_nobody_out(
    nodes: Nodes, cut_at: int
) -> None:
    """Every question to a node is a place to be cut at; a client talks all along (``everybody_talks`` after each change)."""
    nodes.client("team-a")
    nodes.cut_at = cut_at

    def go_on(*, drop_old: bool = False) -> Outcome:
        try:
            return rotation(nodes).authority(drop_old=drop_old)
        except CutError:
            nodes.cut_at = -1
            nodes.everybody_talks()
            return rotation(nodes).authority(drop_old=drop_old)

    assert go_on().stage == "clients"
    nodes.client("team-a")
    nodes.everybody_talks()
    assert go_on().stage == "leaves"
    assert go_on(drop_old=True).stage == "none"
    nodes.everybody_talks()
    assert nodes.cut_at == -1 or nodes.asked <= cut_at, "the place was met"


def test_a_change_of_places_cut_after_its_one_step_is_completed(nodes: Nodes) -> None:
    succession = Succession(nodes.authority.directory)
    succession.begin(SECRET, NOW)
    assert succession.stage == "trust"
    succession.activate(NOW)
    succession.previous.rename(succession.next)  # as if it had been cut before the old one got its name
    again = Succession(nodes.authority.directory)
    assert again.stage == "clients" and again.previous.is_dir() and not again.next.exists()


def test_an_install_in_between_leaves_certificates_of_the_old_authority_until_clients_are_ready(nodes: Nodes) -> None:
    rotation(nodes).authority()  # no clients: goes through to the leaves
    names = ["gpu-1", "192.0.2.2", "inference.appliance.internal"]
    csr = nodes.csr()
    one = Authority(nodes.authority.directory.with_name("other"))
    one.create("site CA", SECRET, now=NOW)
    old = one.sign_request(csr, kind="node", name="gpu-1", names=names, passphrase=SECRET, days=365, now=NOW)
    succession = Succession(one.directory)
    succession.begin(SECRET, NOW)
    succession.activate(NOW)
    assert one.renewal_reason(old, csr, names=names, renew_before_days=60, now=NOW) == ""
    succession.advance(NOW)
    assert one.renewal_reason(old, csr, names=names, renew_before_days=60, now=NOW) == "another authority issued it"


def test_the_engine_checks_a_node_against_the_authority_that_issued_its_certificate(tmp_path: Path) -> None:
    """Both halves of a rotation: a certificate of the second authority in the file, and one that the second list revokes."""
    authority = Authority(tmp_path / "ca")
    authority.create("site CA", SECRET, now=NOW)
    engine_keys.ensure_key(tmp_path / "node.key")
    csr = engine_keys.request(tmp_path / "node.key", "n").encode()
    old = authority.sign_request(csr, kind="node", name="n", names=["n"], passphrase=SECRET, days=9, now=NOW)
    succession = Succession(authority.directory)
    succession.begin(SECRET, NOW)
    succession.activate(NOW)
    (tmp_path / "node.crt").write_bytes(old)

    def take() -> None:
        for name, data in zip(("ca.crt", "crl.pem"), succession.trust(), strict=True):
            (tmp_path / name).write_bytes(data)

    take()
    engine_keys.check(tmp_path, ["n"], now=NOW)
    authority.revoke("n", passphrase=SECRET, now=NOW)
    take()
    with pytest.raises(Exception, match="is revoked"):
        engine_keys.check(tmp_path, ["n"], now=NOW)
    new = authority.sign_request(csr, kind="node", name="n", names=["n"], passphrase=SECRET, days=9, now=NOW)
    (tmp_path / "node.crt").write_bytes(new)
    engine_keys.check(tmp_path, ["n"], now=NOW)
