"""An authority in a directory: its key, what it issued, what it revoked."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from engine import durable
from engine.errors import InputError
from installer.pki.certificate import Kind, key_of_request, make, make_ca, make_crl, renewal_reason

MAX_NAME = 64  # characters of a common name (RFC 5280, ub-common-name)
OWN_CLIENT = "appliance-proof"  # an install's own, for a day; nobody hands it over


@dataclass(frozen=True)
class Issued:
    """One entry of the register. ``serial`` in hexadecimal; times ISO 8601 UTC."""

    serial: str
    kind: str
    name: str
    not_after: str
    revoked: str = ""

    @property
    def one_run(self) -> bool:
        """Whether an install made it for itself and needs it no more: the depot's, and that of the client which proves the services."""
        return self.kind == "depot" or (self.kind == "client" and self.name == OWN_CLIENT)

    def days_left(self, now: datetime) -> int:
        return (datetime.fromisoformat(self.not_after) - now).days


class Authority:
    """ca.crt and crl.pem are public; ca.key is encrypted, and it and register.json are readable by their owner alone.

    Every change happens under a lock, so that two installs or an install and a revocation cannot lose an entry.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate_path = directory / "ca.crt"
        self.crl_path = directory / "crl.pem"
        self._key_path = directory / "ca.key"
        self._register_path = directory / "register.json"

    def exists(self) -> bool:
        return self.crl_path.is_file()

    def certificate(self) -> x509.Certificate:
        """The authority's own certificate.

        Raises:
            InputError: there is none here.
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
        """Make the authority. crl.pem is written last: a killed run leaves none, and the next one starts over.

        Raises:
            InputError: there is one already, or the name is not one for a certificate.
        """
        if not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
            raise InputError(
                f"the name of an authority has 1 to {MAX_NAME} printable characters, not {len(name)}"
                if name.isprintable()
                else "the name of an authority has characters that cannot be printed",
                remedy="Give another --name.",
            )
        with durable.disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            if self.exists():
                raise InputError(
                    "there is a certificate authority already",
                    where=str(self.directory),
                    remedy="Use it, or another directory; it is never overwritten.",
                )
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
            durable.write(self._key_path, pem, mode=0o600)
            durable.write(self.certificate_path, make_ca(key, name, now).public_bytes(Encoding.PEM))
            self._write_register([])
            self._write_crl(key, [], now)

    # -- issuing ------------------------------------------------------------------------------
    def sign_request(
        self, pem: bytes, *, kind: Kind, name: str, names: Sequence[str], passphrase: str, days: int, now: datetime
    ) -> bytes:
        """Certify the key of a request under the names that the caller gives.

        Args:
            names: DNS names and IP addresses for the certificate.

        Raises:
            TrustError: the request is not signed by its own key, or the key is not P-256 or stronger.
            InputError: the passphrase or a name is wrong, or the authority has expired.
        """
        public = key_of_request(pem, where=name)
        return self._issue(public, kind=kind, name=name, names=names, passphrase=passphrase, days=days, now=now)

    def issue(
        self, *, kind: Kind, name: str, names: Sequence[str], passphrase: str, days: int, now: datetime
    ) -> tuple[bytes, bytes]:
        """A new key (unencrypted PEM, for the caller to keep private) and its certificate.

        Raises:
            InputError: the passphrase or a name is wrong, or the authority has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(), kind=kind, name=name, names=names, passphrase=passphrase, days=days, now=now
        )
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate

    def _issue(
        self,
        public: ec.EllipticCurvePublicKey,
        *,
        kind: Kind,
        name: str,
        names: Sequence[str],
        passphrase: str,
        days: int,
        now: datetime,
    ) -> bytes:
        ca = self.certificate()
        with self._locked():
            key = self._key(passphrase)
            certificate = make(ca, key, public, kind=kind, name=name, names=names, days=days, now=now)
            until = certificate.not_valid_after_utc.isoformat(timespec="seconds")
            # Entered before it is handed out: no certificate exists that cannot be revoked by name.
            self._write_register([*self.register(), Issued(f"{certificate.serial_number:x}", kind, name, until)])
        return certificate.public_bytes(Encoding.PEM)

    def renewal_reason(
        self, certificate: bytes, request: bytes, *, names: Sequence[str], renew_before_days: int, now: datetime
    ) -> str:
        """Why a node's certificate must be replaced; empty when it can stay. Needs no passphrase."""
        older = self.previous() if self._waits_for_clients() else None
        trusted = [self, *([older] if older else [])]
        revoked = {e.serial for authority in trusted for e in authority.register() if e.revoked}
        return renewal_reason(
            certificate, request, self.certificate(), revoked, also=[a.certificate() for a in trusted[1:]],
            names=names, renew_before_days=renew_before_days, now=now,
        )  # fmt: skip

    # -- succession (installer.pki.succession) --------------------------------------------------
    def previous(self) -> Authority | None:
        """The authority that this one took over from, while certificates of both are in use."""
        older = Authority(self.directory.with_name(self.directory.name + "-previous"))
        return older if (self.directory / "rotation.json").is_file() and older.exists() else None

    def own_crl(self) -> bytes:
        """The revocation list of this authority alone."""
        end = b"-----END X509 CRL-----\n"
        return self.crl_path.read_bytes().partition(end)[0] + end

    def unlock(self, passphrase: str) -> None:
        """Try the passphrase.

        Raises:
            InputError: it does not open the key.
        """
        self._key(passphrase)

    def _waits_for_clients(self) -> bool:
        """Until clients have the new authority, a node's certificate of the old one is as good as any."""
        try:
            return bool(json.loads((self.directory / "rotation.json").read_bytes()).get("stage") == "clients")
        except (OSError, ValueError, AttributeError):
            return False

    # -- register and revocation ----------------------------------------------------------------
    def itself(self) -> Issued:
        """The authority's own certificate, in the form of an entry."""
        own = self.certificate()
        name = str(own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        return Issued(f"{own.serial_number:x}", "ca", name, own.not_valid_after_utc.isoformat(timespec="seconds"))

    def register(self) -> list[Issued]:
        """Everything that was issued, oldest first.

        Raises:
            InputError: there is no authority, or its register is damaged.
        """
        self.certificate()
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

        What was revoked before stays so, and the list is written again: a revocation that was killed between register
        and list is completed by repeating it.

        Raises:
            InputError: nothing is called that, or the passphrase is wrong.
        """
        self.certificate()
        older, hit_before = self.previous(), []
        if older and any(which in (e.serial, e.name) for e in older.register()):
            hit_before = older.revoke(which, passphrase=passphrase, now=now)
        with self._locked():
            key, register, stamp = self._key(passphrase), self.register(), now.isoformat(timespec="seconds")
            called = {e.serial for e in register if which in (e.serial, e.name)}
            if not called and not (older and any(which in (e.serial, e.name) for e in older.register())):
                raise InputError(
                    f"nothing is called {which!r}",
                    where=str(self.directory),
                    remedy="`appliance certs list` shows names and serials.",
                )
            hit = [replace(e, revoked=stamp) for e in register if e.serial in called and not e.revoked]
            now_revoked = {e.serial: e for e in hit}
            register = [now_revoked.get(e.serial, e) for e in register]
            self._write_register(register)
            self._write_crl(key, [e for e in register if e.revoked], now)
            return [*hit_before, *hit]

    def _write_register(self, register: list[Issued]) -> None:
        durable.write(self._register_path, json.dumps([asdict(e) for e in register], indent=1) + "\n", mode=0o600)

    def _write_crl(self, key: ec.EllipticCurvePrivateKey, revoked: list[Issued], now: datetime) -> None:
        entries = [(int(e.serial, 16), datetime.fromisoformat(e.revoked)) for e in revoked]
        crl = make_crl(self.certificate(), key, entries, now)
        older = self.previous()  # its list stays in force as long as it is trusted
        durable.write(self.crl_path, crl.public_bytes(Encoding.PEM) + (older.own_crl() if older else b""))

    def _key(self, passphrase: str) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(self._key_path.read_bytes(), passphrase.encode())
        except (OSError, ValueError, TypeError, InternalError) as error:
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
        with durable.disk_errors(self.directory):
            handle = (self.directory / ".lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
