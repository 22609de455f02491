"""`appliance retire`: what this control host keeps of one machine, when the machine is gone or another one takes its name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine import durable
from engine.errors import InputError
from engine.rules.names import COMMON_NAME
from installer.pki import Authority, Issued
from installer.site.inventory import Inventory
from installer.site.ledger import Ledger

NODE = "node"  # kind of a node's certificate; a client of the same name is somebody else


@dataclass(frozen=True)
class Places:
    """Where this control host keeps what belongs to single nodes. ``keys`` are files of other keys, as paths with ``{node}``."""

    ca: Path
    runs: Path
    evidence: Path
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is on record of one node.

    Attributes:
        certificates: that are not revoked.
        files: public key and last record of its evidence, journal and recovery keys, the copy of its disk's header.
        out: whether it counts as out of service.
    """

    node: str
    certificates: tuple[Issued, ...]
    files: tuple[Path, ...]
    out: bool

    def __bool__(self) -> bool:
        return bool(self.certificates or self.files or self.out)


def places(inventory: Inventory, ca: Path, runs: Path, evidence: Path) -> Places:
    """The directories that are given, and those that the site names."""
    site, keys = inventory.site, []
    if site.baseline is not None and site.baseline.journal_keys:
        keys.append(f"{site.baseline.journal_keys}/{{node}}.journal-key")
    if site.model_store is not None and site.model_store.encryption.opened_by != "none":
        keys += [f"{site.model_store.encryption.keys}/{{node}}{end}" for end in (".recovery", ".luks-header")]
    return Places(ca, runs, evidence, tuple(keys))


def known(places: Places, inventory: Inventory, node: str) -> Known:
    """What is on record of a node, whether or not the inventory still has it.

    Raises:
        InputError: the name is not that of a node, or nothing at all is known of it.
    """
    names = [h.name for h in inventory.nodes]
    if not COMMON_NAME.fullmatch(node):  # before a file of that name is looked for
        raise InputError(f"{node!r} is not the name of a node", remedy=f"The inventory has: {', '.join(names)}.")
    paths = [places.evidence / "egress" / f"{node}.{end}" for end in ("pub", "seen")]
    paths += [Path(k.format(node=node)) for k in places.keys]
    found = Known(
        node,
        tuple(_certificates(Authority(places.ca), node)),
        tuple(p for p in paths if p.exists()),
        node in Ledger(places.runs).out,
    )
    if not found and node not in names:
        raise InputError(
            f"{node} is not in the inventory, and nothing is on record of it", where=str(inventory.path),
            remedy=f"The inventory has: {', '.join(names)}; `appliance certs list` shows the names of all nodes that had a certificate.",
        )  # fmt: skip
    return found


def retire(places: Places, found: Known, passphrase: str, now: datetime) -> tuple[Path, ...]:
    """Revoke the node's certificates, put its keys aside and strike it from the record of nodes out of service. Safe to repeat.

    Args:
        passphrase: of the site's authority; not needed where there is nothing to revoke.

    Returns:
        Where its files are now.

    Raises:
        InputError: the passphrase is wrong; nothing was done.
    """
    authority = Authority(places.ca)
    for certificate in found.certificates:
        authority.revoke(certificate.serial, passphrase=passphrase, now=now)
    moved = put_away(found.files, now)
    Ledger(places.runs).bring_back([found.node])
    return moved


def put_away(paths: Iterable[Path], now: datetime) -> tuple[Path, ...]:
    """Give files a name that nothing looks for: ``NAME.until-TIME``. They stay, so that what was signed or sealed before can be checked.

    Returns:
        The new paths of those that were there.
    """
    moved = []
    for path in [p for p in paths if p.exists()]:
        moved.append(path.rename(path.with_name(f"{path.name}.until-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")))
        durable.sync_dir(path.parent)
    return tuple(moved)


def _certificates(authority: Authority, node: str) -> list[Issued]:
    if not authority.exists():
        return []
    older = authority.previous()
    issued = [*(older.register() if older else []), *authority.register()]
    return [e for e in issued if e.kind == NODE and e.name == node and not e.revoked]
