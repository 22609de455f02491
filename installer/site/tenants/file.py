"""The tenants file of a site, as it lies beside the inventory; Ansible's vault may have encrypted it."""

from __future__ import annotations

import json
import os
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.gateway import document
from engine.gateway.document import Document, Key
from engine.process import ProcessError, run

ENCRYPTED = b"$ANSIBLE_VAULT;"
KEY_SETS = "jwks"  # directory beside the file, for the issuers' key sets
MAX_KEY_SET = 1 << 20  # bytes, as the gateway takes them


@dataclass(frozen=True)
class TenantsFile:
    """What was read.

    Attributes:
        document: data and lines; of an encrypted file those of its text.
        key_sets: the issuers' key sets (JWKS) by name of the file, as ``issuers`` name them.
    """

    document: Document
    encrypted: bool = False
    key_sets: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.document.path

    def error(self, key: Key, what: str, remedy: str) -> InputError:
        """An error that names file, line and key."""
        return InputError(self.document.fault(key, what), remedy=remedy)


def read(path: Path, vault: Mapping[str, str]) -> TenantsFile:
    """Read the file and the key sets that it names.

    Args:
        vault: environment by which Ansible's programs can decrypt it.

    Raises:
        InputError: names the file and, where there is one, line and key.
    """
    encrypted = is_encrypted(path)
    found = _decrypted(path, vault) if encrypted else document.load(path)
    if not isinstance(found.data, dict):
        raise InputError(
            "the tenants file must be a mapping",
            where=str(path),
            remedy="`appliance tenants new` writes one to start from.",
        )
    read_file = TenantsFile(found, encrypted)
    return replace(read_file, key_sets=_key_sets(read_file))


def is_encrypted(path: Path) -> bool:
    """Whether Ansible's vault has encrypted the file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(ENCRYPTED)) == ENCRYPTED
    except OSError as error:
        raise InputError(
            f"cannot read the tenants file: {error.strerror}",
            where=str(path),
            remedy="gateway.tenants of the site names it; `appliance tenants new` writes one to start from.",
        ) from error


def _decrypted(path: Path, vault: Mapping[str, str]) -> Document:
    """The document in an encrypted file. Its text stays in memory."""
    program = Path(sysconfig.get_path("scripts")) / "ansible-vault"
    with tempfile.TemporaryDirectory(prefix="appliance-vault-") as scratch:
        environment = {"LC_ALL": "C.UTF-8", "LANGUAGE": "", "ANSIBLE_LOCAL_TEMP": scratch, **vault}
        try:
            text = run([program, "decrypt", "--output=-", path], env=environment).stdout
        except ProcessError as error:
            raise InputError(
                f"Ansible cannot decrypt the tenants file: {error.stderr.strip()[-300:]}",
                where=str(path),
                remedy="Name the file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE; see docs/inventory.md.",
            ) from error
    held = os.memfd_create("tenants")
    try:
        os.write(held, text.encode())
        shown = Path(f"/proc/self/fd/{held}")
        try:
            return replace(document.load(shown), path=path)
        except InputError as error:
            where = error.where.replace(str(shown), str(path))
            raise InputError(error.what, where=where, remedy=error.remedy) from None
    finally:
        os.close(held)


def _key_sets(file: TenantsFile) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for i, issuer in enumerate(_list(file.document.data.get("issuers"))):
        name = issuer.get("jwks") if isinstance(issuer, dict) else None
        if not isinstance(name, str):
            continue  # the model says what is wrong
        key: Key = ("issuers", i, "jwks")
        if Path(name).parts[:-1] != (KEY_SETS,) or not name.endswith(".json"):
            raise file.error(
                key, f"must be {KEY_SETS}/NAME.json, beside the tenants file", "Put the issuer's key set there."
            )
        try:
            raw = (file.path.parent / name).read_bytes()
            keys = json.loads(raw)["keys"]
        except OSError as error:
            raise file.error(key, f"cannot read {name}: {error.strerror}", "Put the issuer's key set there.") from error
        except (ValueError, LookupError, TypeError, RecursionError):
            raise file.error(
                key, f"{name} is not a JWKS", "Write the issuer's key set there, as its jwks_uri gives it."
            ) from None
        if not isinstance(keys, list) or not keys or len(raw) > MAX_KEY_SET:
            raise file.error(key, f"{name} has no keys, or is larger than 1 MiB", "Write the issuer's key set there.")
        if any(isinstance(k, dict) and {"d", "k"} & set(k) for k in keys):
            raise file.error(
                key,
                f"{name} holds a private or shared key",
                "Write the public key set of the issuer there, and replace that key.",
            )
        found[Path(name).name] = raw
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
