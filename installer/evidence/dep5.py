"""Licences that a machine-readable Debian copyright file (DEP-5) names, as an SPDX expression. Pure."""

from __future__ import annotations

import re

from installer.evidence import spdx

MAX_NAME = 60  # characters of a name that SPDX does not have
FORMAT = re.compile(rb"\s*Format(-Specification)?:")
LICENSE = re.compile(rb"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)
# Debian's short names (copyright-format 1.0, section 7.1) that are not SPDX ids as they are.
NAMES = {
    "expat": "MIT", "mit": "MIT", "mit/x": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause", "apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0", "cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0",
    "isc": "ISC", "zlib": "Zlib", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0", "python-2.0": "Python-2.0", "psf-2": "PSF-2.0",
}  # fmt: skip
GNU = re.compile(r"(a?gpl|lgpl|gfdl)-([123])(?:\.([0-9]))?(?:\.0)?(\+)?", re.IGNORECASE)
GNU_VERSIONS = {
    "GPL": ("1.0", "2.0", "3.0"), "LGPL": ("2.0", "2.1", "3.0"), "AGPL": ("1.0", "3.0"), "GFDL": ("1.1", "1.2", "1.3"),
}  # fmt: skip


def expression(files: list[bytes]) -> str:
    """What all these copyright files name, joined by AND; empty when there are none or one of them is prose.

    A name that SPDX does not have becomes ``LicenseRef-Debian-NAME``: its meaning is in the file itself.
    """
    if not files or not all(FORMAT.match(f[:2000]) for f in files):
        return ""
    found: set[str] = set()
    for data in files:
        named = [one(n.decode(errors="replace")) for n in LICENSE.findall(data)]
        if not named:
            return ""
        found.update(p for n in named for p in (n.split(" AND ") if " OR " not in n else (n,)))
    return " AND ".join(sorted(f"({f})" if " OR " in f and len(found) > 1 else f for f in found))


def one(name: str) -> str:
    """One short name, or several with `and` and `or`, as an SPDX expression."""
    said = " ".join(name.split())
    if "," in said or re.search(r"\b(and|or)\b.*\b(and|or)\b", said, re.IGNORECASE):
        return _reference(said)  # a comma changes what belongs together, and so may the order of the two words
    for word in ("or", "and"):
        parts = re.split(rf"\s+{word}\s+", said, flags=re.IGNORECASE)
        if len(parts) > 1:
            return f" {word.upper()} ".join(sorted({_name(p) for p in parts}))
    return _name(said)


def _name(name: str) -> str:
    if known := NAMES.get(name.lower()):
        return known
    if gnu := GNU.fullmatch(name):
        family, version = gnu[1].upper(), f"{gnu[2]}.{gnu[3] or 0}"
        if version in GNU_VERSIONS[family]:
            return f"{family}-{version}-{'or-later' if gnu[4] else 'only'}"
    if "/" not in name and " " not in name and (same := spdx.normalise(name)):
        return same
    return _reference(name)


def _reference(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", name.replace("+", "-or-later")).strip("-.")
    return "LicenseRef-Debian-" + (plain[:MAX_NAME].strip("-.") or "unnamed")
