"""What wheels hold inside, compared: the Python they ask for, and files that two of them would both install."""

from __future__ import annotations

import email.parser
from collections.abc import Iterable
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from installer import wheelarchive


def unfit_python(metadata: bytes, python: str) -> str:
    """What a wheel's Requires-Python says when ``python`` (``3.12``) is not in it, else empty.

    ``3.12`` stands for its first release, as it does for the resolver: what asks for a later one is refused.
    """
    asked = str(email.parser.BytesHeaderParser().parsebytes(metadata).get("Requires-Python") or "")
    try:
        return "" if SpecifierSet(asked).contains(f"{python}.0", prereleases=True) else asked
    except InvalidSpecifier:
        return ""  # installers ignore what they cannot read, too


def collisions(wheels: Iterable[tuple[str, Path]]) -> dict[tuple[str, str], list[str]]:
    """Files of packages that two wheels both install with different content, by the pair of wheels' labels.

    An installer lets the later one win without a word. Files beside packages (a stray ``build_backend.py``) and equal
    files do no harm and are left out.
    """
    seen: dict[str, tuple[int, int, str]] = {}
    found: dict[tuple[str, str], list[str]] = {}
    for label, path in wheels:
        with wheelarchive.opened(path) as archive:
            for info in archive.infolist():
                name = info.filename
                if "/" not in name or name.endswith("/") or ".dist-info/" in name or ".data/" in name:
                    continue
                crc, size, other = seen.setdefault(name, (info.CRC, info.file_size, label))
                if other != label and (crc, size) != (info.CRC, info.file_size):
                    found.setdefault((other, label), []).append(name)
    return found
