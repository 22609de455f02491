"""What `appliance tenants` does with a site's tenants file: start it, add and remove keys. Every change is checked before it is written."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from engine import durable
from engine.errors import InputError
from engine.gateway import document, keys
from engine.gateway.configuration import ApiKey
from installer.site.inventory import Inventory, tenants_path
from installer.site.tenants import edit
from installer.site.tenants.file import TenantsFile, is_encrypted
from installer.site.tenants.render import PROOF, Rendered, render

START = """\
# Who may ask the gateway, for which models and how much (docs/gateway.md). `appliance tenants check` checks it, `apply` brings it to the
# gateway host. Only hashes of keys are here: `appliance tenants new-key TENANT` adds one.
schema: 1
site: {prefix}                # in the prefix of API keys: sk-{prefix}-…
timezone: UTC            # whose midnight ends a day and a month
# Keeps one tenant's prefix cache from others; when it changes, caches start empty.
cache_salt_seed: {seed}
tenants: []
#  - name: team-a
#    cost_centre: "4711"
#    models: [{model}]        # served_name of services
#    limits: {{tokens_per_day: 5000000, concurrent_requests: 50}}
"""


@dataclass(frozen=True)
class Added:
    """A new key. ``text`` is the key itself, which is kept nowhere."""

    tenant: str
    id: str
    text: str
    expires: datetime


def start(inventory_path: Path, name: str, prefix: str, model: str) -> Path:
    """Write a tenants file to start from, with a seed of its own.

    Raises:
        InputError: there is one already, or the prefix is not allowed.
    """
    if not re.fullmatch(r"[a-z0-9]{1,16}", prefix):
        raise InputError(
            f"{prefix!r} cannot be the prefix of a site",
            where="--site",
            remedy="Use up to 16 lower-case letters and digits.",
        )
    path = (inventory_path if inventory_path.is_dir() else inventory_path.parent) / name
    if path.exists():
        raise InputError("there is a tenants file already", where=str(path), remedy="Change it, or move it away.")
    durable.write(path, START.format(prefix=prefix, seed=secrets.token_urlsafe(24), model=model), mode=0o640)
    return path


def required(inventory: Inventory) -> Rendered:
    """The gateway's configuration of a site.

    Raises:
        InputError: the site has no tenants.
    """
    if inventory.tenants is None:
        raise InputError(
            "the site has no tenants",
            where=f"{inventory.path}: appliance_site.gateway",
            remedy="`appliance tenants new` writes a file to start from; then set gateway.tenants: tenants.yml.",
        )
    return inventory.tenants


def new_key(inventory: Inventory, tenant: str, name: str, days: int, project: str = "") -> Added:
    """Make a key and write its hash into the tenants file.

    Raises:
        InputError: there is no such tenant or project, the name is taken, or the file is encrypted; nothing was written.
    """
    rendered = required(inventory)
    if tenant == PROOF:
        raise InputError(f"{PROOF} is the tenant of the install's own request", remedy="Name another.")
    made = keys.make(rendered.configuration.site, name or _free_name(rendered, tenant), days)
    entry = made.entry(project or None).strip().removeprefix("- ")
    _change(inventory, lambda text: edit.add_key(text, tenant, entry))
    return Added(tenant, made.id, made.text, made.expires)


def revoke_key(inventory: Inventory, name: str) -> str:
    """Take a key out of the tenants file; returns its tenant.

    Raises:
        InputError: there is no such key, or the file is encrypted; nothing was written.
    """
    rendered = required(inventory)
    _change(inventory, lambda text: edit.remove_key(text, name))
    return next(t.name for t in rendered.configuration.tenants for k in t.keys if k.id == name)


def _free_name(rendered: Rendered, tenant: str) -> str:
    """TENANT-NUMBER, after all numbers of such names."""
    base = re.sub(r"[^a-z0-9]+", "-", tenant.lower()).strip("-")[:30] or "key"
    tenants = rendered.configuration.tenants
    taken = {k.id for t in tenants for k in t.keys} | {c.id for t in tenants for c in t.certificates}
    taken |= {r.id for i in rendered.configuration.issuers for r in i.rules}
    return next(f"{base}-{n}" for n in range(1, len(taken) + 2) if f"{base}-{n}" not in taken)


def _change(inventory: Inventory, change: Callable[[str], str]) -> None:
    path = tenants_path(inventory.path, inventory.site)
    if path is None:
        return  # never of a site with tenants
    if is_encrypted(path):
        raise InputError(
            "the tenants file is encrypted, and appliance does not write into it",
            where=str(path),
            remedy="`ansible-vault decrypt` it, run this again, and encrypt it. Or make an entry with `appliance-gateway key` and add it with `ansible-vault edit`.",
        )
    text = path.read_text(encoding="utf-8")
    try:
        changed = change(text)
    except InputError as error:
        raise InputError(error.what, where=str(path), remedy=error.remedy) from None
    mode = path.stat().st_mode & 0o777
    trial = path.with_name(f".{path.name}.trial")
    try:
        durable.write(trial, changed, mode=mode)
        read = replace(document.load(trial), path=path)
        render(inventory.site, inventory.hosts, inventory.address, TenantsFile(read))
    finally:
        trial.unlink(missing_ok=True)
    durable.write(path, changed, mode=mode)


def standing(key: ApiKey, now: datetime) -> str:
    """Whether a key is valid now, in a word."""
    return "expired" if key.expires <= now else "not yet" if key.created > now else "valid"
