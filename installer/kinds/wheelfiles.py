"""What wheels hold inside, compared: the Python they ask for, and files that two of them would both install."""

from __future__ import annotations

import email.parser
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet


def unfit_python(metadata: bytes, python: str) -> str:
    """What a wheel's Requires-Python says when ``python`` (a patch release such as ``3.12.3``) is not in it, else empty."""
    asked = str(email.parser.BytesHeaderParser().parsebytes(metadata).get("Requires-Python") or "")
    try:
        return "" if SpecifierSet(asked).contains(python, prereleases=True) else asked
    except InvalidSpecifier:
        return ""  # installers ignore what they cannot read, too


class Entry(NamedTuple):
    """A file of a package inside a wheel, as the archive's list has it; the checksum is the archive's CRC-32."""

    name: str
    crc: int
    size: int


def installed(archive: zipfile.ZipFile) -> list[Entry]:
    """The files that a wheel installs into packages, not its metadata and not what lies beside packages."""
    return [
        Entry(i.filename, i.CRC, i.file_size)
        for i in archive.infolist()
        if "/" in i.filename
        and not i.filename.endswith("/")
        and ".dist-info/" not in i.filename
        and ".data/" not in i.filename
    ]


def beside(archive: zipfile.ZipFile) -> list[Entry]:
    """Files that a wheel installs beside packages, such as a stray ``README.md``."""
    return [Entry(i.filename, i.CRC, i.file_size) for i in archive.infolist() if "/" not in i.filename]


def last(wheels: Iterable[tuple[str, Iterable[Entry]]]) -> tuple[str, ...]:
    """Names of the distributions that must be installed again after all others, one by one in this order, so that of files
    which several install with different content those of the last name in the alphabet stay.

    Args:
        wheels: normalized names with their files. An installer works on several wheels at once, so that without this it
            depends on the day whose file stays.
    """
    owners: dict[str, dict[str, Entry]] = {}
    for name, entries in wheels:
        for entry in entries:
            owners.setdefault(entry.name, {})[name] = entry
    return tuple(sorted({max(of) for of in owners.values() if len(set(of.values())) > 1}))


def collisions(wheels: Iterable[tuple[str, Iterable[Entry]]]) -> dict[tuple[str, str], list[str]]:
    """Files of packages that two wheels both install with different content, by the pair of wheels' labels.

    An installer lets the later one win without a word. Files beside packages (a stray ``build_backend.py``) and equal
    files do no harm and are left out.
    """
    seen: dict[str, tuple[Entry, str]] = {}
    found: dict[tuple[str, str], list[str]] = {}
    for label, entries in wheels:
        for entry in entries:
            first, other = seen.setdefault(entry.name, (entry, label))
            if other != label and first != entry:
                found.setdefault((other, label), []).append(entry.name)
    return found
