"""The licence of a model, as its folder states it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from installer import yamlfile

CARD = "README.md"
LIMIT = 64 << 10  # bytes of a card's front matter that are read
NOTHING = ("", "unknown", "other")  # said, and yet nothing was said
FILES = re.compile(r"^(LICEN[CS]E|COPYING)([._-].*)?$", re.IGNORECASE)
# The hub's names of common licences as SPDX has them; others become LicenseRef-NAME.
SPDX = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC", "mpl-2.0": "MPL-2.0", "lgpl-3.0": "LGPL-3.0-only", "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only", "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0", "unlicense": "Unlicense",
}  # fmt: skip


def licence(paths: Iterable[str], card: bytes) -> str:
    """An SPDX expression: what the card says, else a reference to the licence file, else empty.

    Args:
        paths: files of the folder; licence files count at its top only.
        card: the begin of README.md; empty when there is none.
    """
    if said := _said(card):
        return said
    files = sorted(p for p in paths if FILES.match(p) and "/" not in p)
    return _reference(files[0]) if files else ""


def _said(card: bytes) -> str:
    """`license` of the front matter; of `license: other` the name beside it."""
    parts = re.match(rb"---\r?\n(.*?)\r?\n---\s", card[:LIMIT] + b"\n", re.DOTALL)
    if not parts:
        return ""
    try:
        # Merged again and again, an alias grows without end; a card states its licence without one.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(parts[1], yaml.CSafeLoader)):
            return ""
        matter = yaml.load(parts[1], yamlfile.Loader)  # noqa: S506  a safe loader within bounds
    except (yaml.YAMLError, RecursionError, ValueError, ArithmeticError):
        return ""
    if not isinstance(matter, dict):
        return ""
    stated, name = matter.get("license"), matter.get("license_name")
    if stated == "other" and isinstance(name, str):
        stated = name
    names = stated if isinstance(stated, list) else [stated]
    # Several licences without a word on how they combine: all of them hold.
    return " AND ".join(_spdx(n.strip()) for n in names if isinstance(n, str) and n.strip() not in NOTHING)


def _spdx(name: str) -> str:
    return SPDX.get(name.lower()) or _reference(name)


def _reference(name: str) -> str:
    return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", name[:100]).strip("-") or "unnamed")
