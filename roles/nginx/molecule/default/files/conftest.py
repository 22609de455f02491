"""What the tests of the edge hold in their hands: a client, the site's authority, the nodes."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import ssl
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from installer.pki import Authority, Kind, utc_now

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """Certificate chain and key in files."""

    name: str
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's form."""
        assert self.headers["content-type"] == "application/json"
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return str(self.json["error"]["code"])


@dataclass
class Connection:
    """One TLS connection; closed by the fixture that made it."""

    raw: http.client.HTTPSConnection

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        response = self.begin(method, path, body, headers)
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def begin(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        self.raw.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        return self.raw.getresponse()


@dataclass
class Site:
    """The lab as ``verify.yml`` describes it in the variable EDGE."""

    directory: Path
    gateway: str
    gpus: dict[str, str]
    ssh: dict[str, list[str]]
    scratch: Path
    authority: Authority = field(init=False)
    made: int = 0
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.directory / "ca")
        self.passphrase = (self.directory / "passphrase").read_text().rstrip("\n")

    # -- certificates -------------------------------------------------------------------------
    def identity(self, name: str, kind: Kind = "client", names: list[str] | None = None) -> Identity:
        """From the site's authority, as an operator gets it."""
        key, certificate = self.authority.issue(
            kind=kind, name=name, names=names or [], passphrase=self.passphrase, days=1, now=utc_now()
        )
        return self.files(name, key, certificate)

    def as_gateway(self) -> Identity:
        return self.identity("gateway-1", "node", ["gateway-1"])

    def files(self, name: str, key: bytes, certificate: bytes) -> Identity:
        self.made += 1
        base = self.scratch / f"{self.made}-{name}"
        paths = base.with_suffix(".crt"), base.with_suffix(".key")
        paths[0].write_bytes(certificate)
        paths[1].write_bytes(key)
        return Identity(name, *paths)

    def ca_key(self) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key((self.directory / "ca" / "ca.key").read_bytes(), self.passphrase.encode())
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    # -- talking ------------------------------------------------------------------------------
    def context(self, identity: Identity | None, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # the client would hold back a weak key; the edge has to refuse it
        context.load_verify_locations(cafile=str(self.authority.certificate_path))
        if identity:
            context.load_cert_chain(identity.certificate, identity.key)
        return context

    def connect(
        self,
        identity: Identity | None,
        *,
        to: str = "",
        port: int = 8443,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> Connection:
        """To the gateway, or to the GPU node ``to``."""
        host = self.gpus[to] if to else self.gateway
        raw = http.client.HTTPSConnection(
            host, 8444 if to else port, timeout=30, context=self.context(identity, version=version)
        )
        self.connections.append(Connection(raw))
        return self.connections[-1]

    def records(self) -> list[dict[str, Any]]:
        """What the models were asked, from all GPU nodes."""
        gateway = self.as_gateway()
        return [e for gpu in self.gpus for e in self.connect(gateway, to=gpu).ask("GET", "/v1/models").json["record"]]

    def release(self, stream: str, node: str) -> None:
        answer = self.connect(self.as_gateway(), to=node).ask("POST", "/v1/embeddings", {"release": stream})
        assert answer.status == 200

    def on(self, node: str, *command: str, ok: tuple[int, ...] = (0,)) -> str:
        """Run a command on a node."""
        done = subprocess.run(
            [*self.ssh[node], shlex.join(command)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode in ok, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def log(self, node: str) -> list[dict[str, Any]]:
        """The edge's log of a node."""
        self.on(node, "journalctl", "--sync")
        text = self.on(node, "journalctl", "--identifier=appliance_nginx", "--output=cat", "--no-pager")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Any:
    given = json.loads(os.environ["EDGE"])
    made = Site(Path(given["site"]), given["gateway"], given["gpus"], given["ssh"], tmp_path)
    yield made
    for connection in made.connections:
        connection.raw.close()


# -- what an attacker would make --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Forgery:
    """Everything about a certificate that can be wrong; the defaults are those of a good client's."""

    begins: timedelta = timedelta(hours=-1)
    ends: timedelta = timedelta(days=1)
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = (
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "client"),
        (NameOID.COMMON_NAME, "mallory"),
    )
    ca: bool = False

    def certificate(
        self, key: Key, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey, now: datetime
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in self.subject]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + self.begins)
            .not_valid_after(now + self.ends)
            .add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([self.usage]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )


def pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def forge(site: Site, kind: str) -> Identity | None:
    """A certificate that must not be let in; ``kind`` says what is wrong with it."""
    ours, ca_key, now = site.authority.certificate(), site.ca_key(), utc_now()
    key: Key = ec.generate_private_key(ec.SECP256R1())
    wrong = {
        "expired": Forgery(begins=timedelta(days=-2), ends=timedelta(minutes=-1)),
        "not yet valid": Forgery(begins=timedelta(hours=1)),
        "for servers only": Forgery(usage=ExtendedKeyUsageOID.SERVER_AUTH),
        "without a kind": Forgery(subject=((NameOID.COMMON_NAME, "mallory"),)),
        "of an unknown kind": Forgery(
            subject=((NameOID.ORGANIZATIONAL_UNIT_NAME, "tenant"), (NameOID.COMMON_NAME, "mallory"))
        ),
        "with a kind inside its name": Forgery(
            subject=((NameOID.ORGANIZATIONAL_UNIT_NAME, "depot"), (NameOID.COMMON_NAME, "x,OU=client"))
        ),
    }
    if kind == "none":
        return None
    if kind == "self-signed":
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallory")])
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = Forgery().certificate(key, name, key, now)
    elif kind == "another authority":
        other = Authority(site.scratch / "other-ca")
        secret = secrets.token_hex()
        other.create("appliance site CA", secret, now=now)
        made, chain = other.issue(kind="client", name="mallory", names=[], passphrase=secret, days=1, now=now)
        return site.files("mallory", made, chain)
    elif kind == "a weak key":
        key = rsa.generate_private_key(65537, 1024)
        certificate = Forgery().certificate(key, ours.subject, ca_key, now)
    elif kind == "a chain over a client":
        # A client that plays authority, with and without the flag it was never given.
        between = ec.generate_private_key(ec.SECP256R1())
        middle = Forgery(ca=True).certificate(between, ours.subject, ca_key, now)
        certificate = Forgery().certificate(key, middle.subject, between, now)
        chain = certificate.public_bytes(Encoding.PEM) + middle.public_bytes(Encoding.PEM)
        return site.files("mallory", pem(key), chain)
    else:
        certificate = wrong[kind].certificate(key, ours.subject, ca_key, now)
    return site.files("mallory", pem(key), certificate.public_bytes(Encoding.PEM))
