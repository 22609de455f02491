"""What Ansible says of an inventory."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.process import ProcessError, run
from installer import product
from installer.site import inventoryfiles

# Ansible refuses a locale that is not UTF-8 or was not generated; this one is part of every Debian.
LOCALE: Mapping[str, str] = {"LC_ALL": "C.UTF-8", "LANGUAGE": ""}
# What lies beside hosts in the directory of an inventory and lists none: the tenants file, and the key sets of its issuers.
NOT_HOSTS = r"^([A-Za-z0-9][A-Za-z0-9_-]*[_-])?tenants\.ya?ml$", "^jwks$"
IGNORED = "ANSIBLE_INVENTORY_IGNORE_REGEX"
HOSTS_FILE = "hosts.yml"
HIDDEN = "(from the vault)"
VAULT_REMEDY = "Name the file with the vault's password in ANSIBLE_VAULT_PASSWORD_FILE, or as Ansible's configuration does; see docs/inventory.md."


@dataclass(frozen=True)
class Told:
    """One host. ``raw`` are its variables as written (vaulted ones encrypted), ``resolved`` those this product reads, ``lines``
    FILE:LINE of these, ``line`` that of the host itself."""

    raw: Mapping[str, Any]
    resolved: Mapping[str, Any]
    lines: Mapping[str, str]
    line: str


@dataclass(frozen=True)
class Listing:
    """The inventory.

    Attributes:
        references: places within ``appliance_site`` that come from a vault, and what Ansible is given instead of the value.
        secrets: decrypted texts, so that messages can leave them out.
        vault: environment that lets other processes of Ansible decrypt what this one did.
    """

    groups: Mapping[str, tuple[str, ...]]
    hosts: Mapping[str, Told]
    references: Mapping[tuple[str | int, ...], Any] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    vault: Mapping[str, str] = field(default_factory=dict)


def not_hosts(path: Path) -> dict[str, str]:
    """Environment by which Ansible does not take a tenants file for a list of hosts; empty where the directory has none."""
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    if not any(re.search(pattern, name) for pattern in NOT_HOSTS for name in names):
        return {}
    return {IGNORED: ",".join([*filter(None, [os.environ.get(IGNORED, "")]), *NOT_HOSTS])}


def ansible_inventory() -> str:
    """The program that belongs to this Python; the one on the path otherwise."""
    binary = Path(sysconfig.get_path("scripts")) / "ansible-inventory"
    return str(binary) if binary.exists() else binary.name


def inventory_program(*words: str | Path, env: Mapping[str, str]) -> str:
    """What `ansible-inventory` prints; ``env`` lets it decrypt, and leave out, what `ask` did.

    Raises:
        ProcessError: it refused.
    """
    return _asked([ansible_inventory(), *map(str, words)], {**LOCALE, **env})


def _asked(argv: list[str], environment: Mapping[str, str]) -> str:
    """What a program of Ansible prints. Its own files go to a temporary directory, for home directories that cannot be written."""
    with tempfile.TemporaryDirectory(prefix="appliance-inventory-") as scratch:
        given = {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_LOCAL_TEMP": scratch, **environment}
        return run(argv, env=given).stdout


def ask(path: Path) -> Listing:
    """The merged inventory.

    Raises:
        InputError: there is none, Ansible cannot read or decrypt it, or a variable in it leads nowhere.
    """
    inventoryfiles.require_sound(path, HOSTS_FILE)
    argv = [sys.executable, "-P", "-m", "installer.site.resolve", "-i", str(path), "--list"]
    environment = {"PYTHONPATH": str(product.PACKAGE.parent), **LOCALE, **not_hosts(path)}
    try:
        said = _asked(argv, environment)
    except ProcessError as error:
        raise InputError(
            f"Ansible cannot read the inventory: {error.stderr.strip()[-600:]}",
            where=str(path),
            remedy="Correct the file it names.",
        ) from error
    return understand(path, json.loads(said))


def understand(path: Path, answer: Mapping[str, Any]) -> Listing:
    """The answer of ``installer.site.resolve``.

    Raises:
        InputError: it tells of a fault.
    """
    if fault := answer.get("fault"):
        raise _error(path, fault)
    hosts = {n: Told(h["raw"], h["resolved"], h["lines"], h["line"]) for n, h in answer["hosts"].items()}
    groups = {name: tuple(members) for name, members in answer["groups"].items()}
    references = {tuple(place): told for place, told in answer["references"]}
    return Listing(groups, hosts, references, frozenset(answer["secrets"]), answer["vault"])


def without_secrets(text: str, secrets: frozenset[str]) -> str:
    """``text`` with every decrypted value left out, the longest first."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN) if secret else text
    return text


def _error(path: Path, fault: Mapping[str, Any]) -> InputError:
    where, what = fault.get("where") or "", fault["what"]
    where = where or str(path)
    if fault.get("vault"):
        return InputError(f"Ansible cannot decrypt a value of the inventory: {what}", where=where, remedy=VAULT_REMEDY)
    if fault.get("variable"):
        told = f"{fault['variable']} of {fault['host']} cannot be resolved: {what}"
        return InputError(
            told, where=where, remedy="Set the variable it names in the inventory, or correct the template."
        )
    return InputError(f"Ansible cannot read the inventory: {what}", where=where, remedy="Correct the file it names.")
