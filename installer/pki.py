"""The site's offline certificate authority: files on the control host, used only while somebody installs.

P-256 throughout: every TLS library that clients bring accepts it, unlike Ed25519. Names in certificates come from the
inventory, never from the request: a node cannot ask for another node's name. Organisational units tell the kinds apart
(``OU=node``, ``OU=client``, ``OU=depot``), and servers allow by kind.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine import durable
from engine.errors import InputError, TrustError

Kind = Literal["node", "client", "depot"]
USAGES = {
    "node": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "depot": (ExtendedKeyUsageOID.SERVER_AUTH,),
}
CA_DAYS = 3650
CRL_DAYS = 3650  # nobody can fetch a fresh list inside the gap; a new one is written at every revocation
BACKDATE = timedelta(hours=1)  # clocks inside the gap drift


@dataclass(frozen=True)
class Issued:
    """One line of the register. ``serial`` in hexadecimal; times ISO 8601 UTC."""

    serial: str
    kind: str
    name: str
    not_after: str
    revoked: str = ""

    def days_left(self, now: datetime) -> int:
        return (datetime.fromisoformat(self.not_after) - now).days


class Authority:
    """A CA in a directory: ca.crt, crl.pem and register.json are public, ca.key is encrypted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate_path = directory / "ca.crt"
        self.crl_path = directory / "crl.pem"
        self._key_path = directory / "ca.key"
        self._register_path = directory / "register.json"

    def exists(self) -> bool:
        return self.crl_path.is_file()

    def certificate(self) -> x509.Certificate:
        """The CA's certificate.

        Raises:
            InputError: there is no CA.
        """
        try:
            return x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(
                "no certificate authority here",
                where=str(self.directory),
                remedy="Run `appliance certs init`, or name its directory.",
            ) from error

    def create(self, name: str, passphrase: str, *, now: datetime) -> None:
        """Make the CA. A killed run leaves no crl.pem, and the next one starts over.

        Raises:
            InputError: there is one already.
        """
        if self.exists():
            raise InputError(
                "there is a certificate authority already",
                where=str(self.directory),
                remedy="Use it, or another directory; it is never overwritten.",
            )
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
        durable.write(self._key_path, pem, mode=0o600)
        durable.write(self.certificate_path, certificate.public_bytes(Encoding.PEM))
        durable.write(self._register_path, "[]\n", mode=0o600)
        self._write_crl(key, [], now)

    # -- issuing ------------------------------------------------------------------------------
    def sign_request(
        self, pem: bytes, *, kind: Kind, name: str, names: list[str], passphrase: str, days: int, now: datetime
    ) -> bytes:
        """Certify the key of a request under the names that the caller gives.

        Args:
            names: DNS names and IP addresses for the certificate.

        Raises:
            TrustError: the request is not signed by its own key, or the key is not P-256 or stronger.
        """
        try:
            request = x509.load_pem_x509_csr(pem)
            public = request.public_key()
            good = (
                request.is_signature_valid
                and isinstance(public, ec.EllipticCurvePublicKey)
                and public.curve.key_size >= 256
            )
        except ValueError as error:
            raise TrustError(
                "not a certificate request", where=name, remedy="Run the install again; it makes a new one."
            ) from error
        if not good:
            raise TrustError(
                "the certificate request is not signed by its own P-256 key",
                where=name,
                remedy="Look at who made it on the node.",
            )
        return self._issue(public, kind=kind, name=name, names=names, passphrase=passphrase, days=days, now=now)

    def issue(
        self, *, kind: Kind, name: str, names: list[str], passphrase: str, days: int, now: datetime
    ) -> tuple[bytes, bytes]:
        """A new key (unencrypted PEM, for the caller to keep private) and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(), kind=kind, name=name, names=names, passphrase=passphrase, days=days, now=now
        )
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate

    def _issue(
        self, public: object, *, kind: Kind, name: str, names: list[str], passphrase: str, days: int, now: datetime
    ) -> bytes:
        ca = self.certificate()
        with self._locked():
            key = self._key(passphrase)
            until = min(now + timedelta(days=days), ca.not_valid_after_utc)
            subject = [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
            builder = (
                x509.CertificateBuilder()
                .subject_name(x509.Name(subject))
                .issuer_name(ca.subject)
                .public_key(public)  # type: ignore[arg-type]
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - BACKDATE)
                .not_valid_after(until)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_key_usage(digital_signature=True), critical=True)
                .add_extension(x509.ExtendedKeyUsage(USAGES[kind]), critical=False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)  # type: ignore[arg-type]
            )
            if names:
                builder = builder.add_extension(
                    x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False
                )
            certificate = builder.sign(key, hashes.SHA256())
            register = [
                *self.register(),
                Issued(f"{certificate.serial_number:x}", kind, name, until.isoformat(timespec="seconds")),
            ]
            self._write_register(register)
            return certificate.public_bytes(Encoding.PEM)

    # -- register and revocation ----------------------------------------------------------------
    def register(self) -> list[Issued]:
        """Everything that was issued, oldest first."""
        try:
            return [Issued(**entry) for entry in json.loads(self._register_path.read_bytes())]
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                "the register of the certificate authority cannot be read",
                where=str(self._register_path),
                remedy="Restore it from a backup.",
            ) from error

    def revoke(self, which: str, *, passphrase: str, now: datetime) -> list[Issued]:
        """Revoke by serial, or everything issued to a name; returns what was revoked now.

        Raises:
            InputError: nothing valid is called that.
        """
        with self._locked():
            key = self._key(passphrase)
            before, stamp = self.register(), now.isoformat(timespec="seconds")
            hit = [replace(e, revoked=stamp) for e in before if which in (e.serial, e.name) and not e.revoked]
            if not hit:
                raise InputError(
                    f"nothing unrevoked is called {which!r}",
                    where=str(self.directory),
                    remedy="`appliance certs list` shows names and serials.",
                )
            by_serial = {e.serial: e for e in hit}
            register = [by_serial.get(e.serial, e) for e in before]
            self._write_register(register)
            self._write_crl(key, [e for e in register if e.revoked], now)
            return hit

    def _write_register(self, register: list[Issued]) -> None:
        durable.write(self._register_path, json.dumps([asdict(e) for e in register], indent=1) + "\n", mode=0o600)

    def _write_crl(self, key: ec.EllipticCurvePrivateKey, revoked: list[Issued], now: datetime) -> None:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate().subject)
        builder = builder.last_update(now - BACKDATE).next_update(now + timedelta(days=CRL_DAYS))
        for entry in revoked:
            one = (
                x509.RevokedCertificateBuilder()
                .serial_number(int(entry.serial, 16))
                .revocation_date(datetime.fromisoformat(entry.revoked))
            )
            builder = builder.add_revoked_certificate(one.build())
        durable.write(self.crl_path, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def _key(self, passphrase: str) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(self._key_path.read_bytes(), passphrase.encode())
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                "cannot open the key of the certificate authority",
                where=str(self._key_path),
                remedy="The passphrase is wrong or the file is damaged.",
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(
                "the key of the certificate authority is not P-256",
                where=str(self._key_path),
                remedy="Use one made by `appliance certs init`.",
            )
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def still_good(
    certificate_pem: bytes,
    request_pem: bytes,
    authority: Authority,
    names: list[str],
    *,
    renew_before_days: int,
    now: datetime,
) -> bool:
    """Whether a node's certificate can stay: same key, same names, this CA, not revoked, and long enough valid."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        request = x509.load_pem_x509_csr(request_pem)
        certificate.verify_directly_issued_by(authority.certificate())
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with the old certificate, the answer is a new one
        return False
    revoked = {e.serial for e in authority.register() if e.revoked}
    return (
        certificate.public_key() == request.public_key()
        and {_plain(n) for n in sans} == set(names)
        and f"{certificate.serial_number:x}" not in revoked
        and certificate.not_valid_after_utc - now > timedelta(days=renew_before_days)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _plain(name: x509.GeneralName) -> str:
    return str(name.value)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=crl_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def utc_now() -> datetime:
    """Now, without fractions: what certificates can hold."""
    return datetime.now(UTC).replace(microsecond=0)
