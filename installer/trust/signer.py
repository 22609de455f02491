"""One key as it is kept: its public half in NAME.pub.json, and beside it an encrypted NAME.pem or the NAME.uri of a token."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer, SSlibKey

from engine import durable, inputfile
from engine.errors import InputError, ResourceError

MAX_PUBLIC = 16 << 10  # bytes; a public key is a few hundred
Secret = Callable[[str], str]  # what is asked for, to the answer


@dataclass(frozen=True)
class KeyFile:
    """A key by its public half. ``path`` is NAME.pub.json; the private half may be on another machine."""

    path: Path
    public: Key

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".pub.json")

    @property
    def pem(self) -> Path:
        return self.path.with_name(f"{self.name}.pem")

    @property
    def uri(self) -> Path:
        return self.path.with_name(f"{self.name}.uri")

    @property
    def usable(self) -> bool:
        """Whether this machine can sign with it."""
        return self.pem.exists() or self.uri.exists()

    def open(self, passphrase: str, pin: Secret) -> Signer:
        """The signer; ``passphrase`` opens a file, ``pin`` is asked for a token's PIN.

        Raises:
            InputError: wrong passphrase, a file that is no such key, or the private half is not here.
            ResourceError: the token cannot be reached.
        """
        if self.uri.exists():
            return _token_signer(inputfile.text(self.uri, MAX_PUBLIC, "the token's address").strip(), self.public, pin)
        signer = _pem_signer(self.pem, passphrase)
        if signer.public_key.keyid != self.public.keyid:
            raise InputError(
                "the private key is not that of the public key beside it",
                where=str(self.pem),
                remedy="Put the right file back from your safe copy.",
            )
        return signer


def read_public(path: Path) -> KeyFile:
    """A NAME.pub.json.

    Raises:
        InputError: it cannot be read or is no public key.
    """
    raw = inputfile.read(path, MAX_PUBLIC, "the public key")
    try:
        data = json.loads(raw)
        key = Key.from_dict(data["keyid"], dict(data["key"]))
        # Within the same guard: half a surrogate pair in a field has no UTF-8, and UnicodeEncodeError is a ValueError.
        edited = isinstance(key, SSlibKey) and key.keyid != _keyid(key)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"not a public key: {error}", where=str(path), remedy="Use a NAME.pub.json that `appliance keys new` wrote."
        ) from error
    if edited:
        raise InputError(
            "the key id is not that of the key",
            where=str(path),
            remedy="The file was edited; ask for it again and compare the key id by telephone.",
        )
    return KeyFile(path, key)


def _keyid(key: SSlibKey) -> str:
    """The id that securesystemslib gives a key: SHA-256 of its canonical JSON (TUF specification, section 4.2)."""
    told = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    return hashlib.sha256(str(encode_canonical(told)).encode()).hexdigest()


def write_public(directory: Path, name: str, public: Key) -> KeyFile:
    """Write NAME.pub.json and return it."""
    path = directory / f"{name}.pub.json"
    text = json.dumps({"name": name, "keyid": public.keyid, "key": public.to_dict()}, indent=1, sort_keys=True)
    durable.write(path, text + "\n")
    return KeyFile(path, public)


def new_file(directory: Path, name: str, passphrase: str) -> KeyFile:
    """Make an Ed25519 key, encrypted with the passphrase.

    Raises:
        InputError: a key of that name is there already.
    """
    _require_new(directory, name)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
    private = directory / f"{name}.pem"
    durable.write(private, pem, mode=0o600)
    try:
        return write_public(directory, name, CryptoSigner(key).public_key)
    except BaseException:
        private.unlink(missing_ok=True)  # half a pair would stand in the way of the next try
        raise


def new_from_token(directory: Path, name: str, key_number: int, label: str | None, pin: Secret) -> KeyFile:
    """Note an ECDSA key that a PKCS#11 token holds; the private half never leaves it.

    Args:
        key_number: the key's id on the token.
        label: the token's label, needed when several are plugged in.

    Raises:
        ResourceError: no such token or key, or the driver's path is not set.
    """
    _require_new(directory, name)
    try:
        uri, public = HSMSigner.import_(key_number, label, pin)
    except Exception as error:  # python-pkcs11 raises types of its own that securesystemslib passes on
        raise _token_error(error, f"key {key_number}") from error
    durable.write(directory / f"{name}.uri", uri + "\n")
    return write_public(directory, name, public)


def _require_new(directory: Path, name: str) -> None:
    if not name or name != Path(name).name or name.startswith(".") or "." in name:
        raise InputError(f"{name!r} is not a name for a key", remedy="Use letters, digits and dashes.")
    for ending in ("pem", "uri", "pub.json"):
        if (path := directory / f"{name}.{ending}").exists():
            raise InputError(
                "there is a key of this name already", where=str(path), remedy="Keys are never overwritten."
            )
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def _pem_signer(path: Path, passphrase: str) -> CryptoSigner:
    pem = inputfile.read(path, MAX_PUBLIC, "the key", "Name the right directory with --keys.")
    try:
        key = load_pem_private_key(pem, passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise InputError(
            "cannot open the key", where=str(path), remedy="The passphrase is wrong or the file is damaged."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("the key is not Ed25519", where=str(path), remedy="Use keys made by `appliance keys`.")
    return CryptoSigner(key)


def _token_signer(uri: str, public: Key, pin: Secret) -> Signer:
    if not uri.startswith("hsm:"):
        raise InputError(
            f"{uri[:20]!r} is not the address of a token", remedy="Use what `appliance keys new --token` wrote."
        )
    try:
        return _Token.from_priv_key_uri(uri, public, pin)
    except (ValueError, UnsupportedLibraryError) as error:
        raise _token_error(error, uri) from error


class _Token(Signer):
    """A token whose failures become sentences."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def public_key(self) -> Key:
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: Secret | None = None) -> Signer:
        return cls(Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler))

    def sign(self, payload: bytes):  # type: ignore[no-untyped-def]  # securesystemslib's Signature
        try:
            return self._signer.sign(payload)
        except Exception as error:  # see new_from_token
            raise _token_error(error, self.public_key.keyid[:16]) from error


def _token_error(error: Exception, where: str) -> ResourceError:
    driver = os.environ.get("PYKCS11LIB")
    remedy = (
        f"Check that the token is plugged in, its PIN, and that {driver} is its driver."
        if driver
        else "Set PYKCS11LIB to the PKCS#11 driver of the token."
    )
    if isinstance(error, UnsupportedLibraryError):
        remedy = "Install python-pkcs11 (the extra `appliance[token]`)."
    return ResourceError(
        f"the token does not sign: {type(error).__name__} {error}".rstrip(), where=where, remedy=remedy
    )
