"""Signing keys: Ed25519, encrypted at rest, one file each, and the signed root that says which key may do what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization.json import JSONSerializer

from engine import durable
from engine.errors import InputError, TrustError
from installer import openpgp

ROLES = ("targets", "snapshot", "timestamp")
APT_KEY = "apt-signing-key.asc"
ROOT = "root.json"


@dataclass(frozen=True)
class KeyInfo:
    """A public key as people compare it."""

    role: str
    keyid: str
    type: str


class KeyStore:
    """A directory of encrypted keys and the root metadata signed with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def root_path(self) -> Path:
        """The signed root; this file (public) is what other machines pin."""
        return self.directory / ROOT

    @property
    def apt_key(self) -> Path:
        return self.directory / APT_KEY

    def root_bytes(self) -> bytes:
        """The newest signed root.

        Raises:
            InputError: the directory holds no keys.
        """
        try:
            return self.root_path.read_bytes()
        except OSError as error:
            raise InputError(
                "no signing keys here",
                where=str(self.directory),
                remedy="Run `appliance keys init`, or name the directory with --keys.",
            ) from error

    def root_chain(self) -> dict[int, bytes]:
        """Every version of the root, by version."""
        chain = {}
        for path in self.directory.glob("*.root.json"):
            if (number := path.name.split(".")[0]).isdigit():
                chain[int(number)] = path.read_bytes()
        return chain

    def signer(self, role: str, passphrase: str) -> CryptoSigner:
        """The signer of a role's key.

        Raises:
            InputError: no such key, or the wrong passphrase.
        """
        path = self.directory / f"{role}.pem"
        try:
            key = load_pem_private_key(path.read_bytes(), passphrase.encode())
        except OSError as error:
            raise InputError(
                f"cannot read the {role} key: {error.strerror}",
                where=str(path),
                remedy="Name the right directory with --keys.",
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InputError(
                f"cannot open the {role} key", where=str(path), remedy="The passphrase is wrong or the file is damaged."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(
                f"the {role} key is not Ed25519", where=str(path), remedy="Use keys made by `appliance keys init`."
            )
        return CryptoSigner(key)

    def create(self, passphrase: str, *, root_keys: int, threshold: int, days: int, now: datetime) -> Root:
        """Make all keys and the first root.

        The order matters for a killed run: the root is written last, so a directory without it is not in use
        and the next run starts over.

        Raises:
            InputError: there are keys already, or the threshold cannot be met.
        """
        if self.root_path.exists():
            raise InputError(
                "there are signing keys already",
                where=str(self.directory),
                remedy="Use another directory; keys are never overwritten.",
            )
        if not 1 <= threshold <= root_keys <= 16:
            raise InputError(
                f"a threshold of {threshold} of {root_keys} root keys is not possible",
                remedy="Use 1 ≤ threshold ≤ keys ≤ 16.",
            )
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = Root(version=1, expires=_expiry(now, days), consistent_snapshot=False)
        for role in ROLES:
            root.add_key(self._new_key(role, passphrase).public_key, role)
        signers = [self._new_key(f"root-{i + 1}", passphrase) for i in range(root_keys)]
        for signer in signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        openpgp.create(self.directory, "appliance archive", passphrase)
        signed = Metadata(root)
        for signer in signers:
            signed.sign(signer, append=True)
        data = signed.to_bytes(JSONSerializer(compact=False))
        durable.write(self.directory / "1.root.json", data)
        durable.write(self.root_path, data)
        return root

    def _new_key(self, role: str, passphrase: str) -> CryptoSigner:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
        durable.write(self.directory / f"{role}.pem", pem, mode=0o600)
        return CryptoSigner(key)

    def describe(self) -> tuple[Root, list[KeyInfo]]:
        """The root in force and its public keys."""
        root = read_root(self.root_bytes(), str(self.root_path))
        rows = [
            KeyInfo(role, keyid, root.keys[keyid].keytype)
            for role, r in sorted(root.roles.items())
            for keyid in r.keyids
        ]
        return root, rows


def read_root(data: bytes, where: str) -> Root:
    """Parse a root and check that it is signed by its own threshold.

    Raises:
        TrustError: it is not.
    """
    try:
        metadata = Metadata[Root].from_bytes(data)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except Exception as error:  # python-tuf raises many types on malformed input; none of them may pass
        raise TrustError(
            f"not a signed root: {error}", where=where, remedy="Use the root.json that `appliance keys init` wrote."
        ) from error
    return metadata.signed


def _expiry(now: datetime, days: int) -> datetime:
    return (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
