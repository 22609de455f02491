"""What is true of a working node beside its files: noted when a generation is kept, compared when somebody asks whether it still is.

Cheap on purpose, for it is asked at every install: no content is hashed again (that is the scheduled verification's), but a file that
was written, replaced or removed since shows by its change time.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.generation import tree

DPKG_STATUS = "var/lib/dpkg/status"
LISTS = "var/lib/appliance/apt/lists"
PKI = ("node.crt", "node.key", "ca.crt", "crl.pem")
_USER = re.compile(r"^(?:User|Group)=([a-z_][a-z0-9_-]*)\s*$", re.MULTILINE)


def note(root: Path, release: str, certificate_renewal: str) -> dict[str, Any]:
    """Everything that ``changes`` compares.

    Args:
        certificate_renewal: when an install would renew the node's certificate, ISO 8601; empty when the node has none.
    """
    return {
        "packages": packages(root),
        "content": content(root, release),
        "pki": pki(root),
        "renewal": certificate_renewal,
        "accounts": accounts(root),
    }


def changes(root: Path, release: str, noted: Mapping[str, Any], now: str) -> list[str]:
    """Why the node is not as it was noted, in words; empty when it is.

    Args:
        now: the time, ISO 8601 in UTC.
    """
    found: list[str] = []
    if packages(root) != noted.get("packages"):
        found.append("packages of the release were changed or removed")
    if content(root, release) != noted.get("content"):
        found.append("the content of the release was touched")
    if pki(root) != noted.get("pki"):
        found.append("the node's certificate or the site's authority changed")
    if noted.get("renewal") and now >= str(noted["renewal"]):
        found.append("the node's certificate is due for renewal")
    missing = [a for a in noted.get("accounts", ()) if not _account(a)]
    if missing:
        found.append(f"the account {missing[0]} is gone")
    return found


def packages(root: Path) -> dict[str, str]:
    """Version of every installed package that came with the release, by name."""
    ours = set()
    for index in sorted((root / LISTS).glob("*_Packages")):
        ours |= {(p.get("Package"), p.get("Version")) for p in _paragraphs(index)}
    found = {}
    for paragraph in _paragraphs(root / DPKG_STATUS):
        name, version = paragraph.get("Package", ""), paragraph.get("Version", "")
        if (name, version) in ours and paragraph.get("Status", "").endswith(" installed"):
            found[name] = version
    return found


def content(root: Path, release: str) -> str:
    """Digest over name, inode, size and change time of every file that the release shows on this node."""
    total = hashlib.sha256()
    view = root / "var/lib/appliance/views" / release
    for directory, directories, files in os.walk(view):
        directories.sort()
        for name in sorted(files):
            path = Path(directory) / name
            found = path.lstat()
            # Not the change time: another release that shares the file by a hard link moves it.
            line = f"{path.relative_to(view)} {found.st_ino} {found.st_size} {found.st_mtime_ns}\n"
            total.update(line.encode(errors="surrogateescape"))
    return total.hexdigest()


def pki(root: Path) -> dict[str, str]:
    """SHA-256 of the node's certificates and key, by name; the key's only says whether it is the same."""
    directory = root / "etc/appliance/pki"
    return {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in PKI if (directory / n).is_file()}


def accounts(root: Path) -> list[str]:
    """Users that our units run as."""
    texts = [p.read_text(errors="replace") for p in sorted((root / tree.UNITS).glob("appliance-*")) if p.is_file()]
    return sorted({name for text in texts for name in _USER.findall(text)})


def _account(name: str) -> bool:
    import grp  # noqa: PLC0415

    for look in (pwd.getpwnam, grp.getgrnam):
        try:
            look(name)
        except KeyError:
            continue
        return True
    return False


def _paragraphs(path: Path) -> Iterable[dict[str, str]]:
    """The few fields that count, of every paragraph of a Debian control file."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line:
            if fields:
                yield fields
            fields = {}
        elif line.startswith(("Package: ", "Version: ", "Status: ")):
            key, _, value = line.partition(": ")
            fields[key] = value
    if fields:
        yield fields
