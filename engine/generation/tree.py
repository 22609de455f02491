"""Which files of a node belong to a generation, and what they are. Reads only.

Not in a generation: keys and certificates (they are renewed, never taken back), the pinned root of trust and the memory of metadata
(going back there would undo the protection against old releases), the gateway's tenants and keys, and the firewall's own shelf, which keeps and confirms its sets itself;
of the firewall the rule texts belong here, and putting them back goes through its confirmation.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

CONFIGURATION = "etc/appliance"
UNITS = "etc/systemd/system"
CURRENT = "opt/appliance/current"
RULES = "etc/appliance/firewall/candidate"
# Who may ask the gateway, which its ledger watches: a rollback of the release must not bring a revoked key back.
TENANTS = "etc/appliance/gateway"
LEFT_OUT = (
    TENANTS,
    "etc/appliance/pki",
    "etc/appliance/trust",
    "etc/appliance/firewall/rules",
    "etc/appliance/firewall/active",
)
# Every role names its files so, wherever the system wants them.
PREFIXES = ("appliance-", "opt-appliance-")
NAMED = (
    UNITS,
    "etc/containers/systemd",
    "etc/modprobe.d",
    "etc/modules-load.d",
    "etc/sysctl.d",
    "etc/apt/preferences.d",
    "etc/systemd/journald.conf.d",
    "etc/audit/rules.d",
    "etc/sudoers.d",
    "etc/ssh/sshd_config.d",
    "etc/chrony/conf.d",
)


@dataclass(frozen=True)
class Entry:
    """A file or a symbolic link. ``content`` is the SHA-256 of a file, or where a link points."""

    kind: str
    mode: int
    uid: int
    gid: int
    content: str


Entries = Mapping[str, Entry]


def scan(root: Path) -> dict[str, Entry]:
    """What is there now, by path below ``root``, sorted."""
    return {path: _entry(root / path) for path in sorted(_paths(root))}


def digest(entries: Entries) -> str:
    """SHA-256 over the canonical JSON of the entries; the name of a node's state."""
    plain = {path: asdict(entry) for path, entry in sorted(entries.items())}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(before: Entries, after: Entries) -> tuple[str, ...]:
    """Paths that are new, gone or different, sorted."""
    return tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))


def _paths(root: Path) -> Iterator[str]:
    yield from _below(root, CONFIGURATION)
    for directory in NAMED:
        for name in _names(root / directory):
            if name.startswith(PREFIXES):
                path = f"{directory}/{name}"
                yield from _below(root, path) if _is_directory(root / path) else (path,)
            elif directory == UNITS and name.endswith((".wants", ".requires")):
                yield from (f"{UNITS}/{name}/{n}" for n in _names(root / UNITS / name) if n.startswith(PREFIXES))
    if (root / CURRENT).is_symlink():
        yield CURRENT


def _below(root: Path, directory: str) -> Iterator[str]:
    for name in _names(root / directory):
        path = f"{directory}/{name}"
        if path in LEFT_OUT:
            continue
        if _is_directory(root / path):
            yield from _below(root, path)
        elif not name.endswith(".tmp"):  # what an interrupted write left
            yield path


def _names(directory: Path) -> list[str]:
    try:
        return [p.name for p in directory.iterdir()] if not directory.is_symlink() else []
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _entry(path: Path) -> Entry:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return Entry("link", 0, found.st_uid, found.st_gid, str(path.readlink()))
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest() if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    return Entry("file", stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, content)
