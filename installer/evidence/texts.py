"""Licence texts inside artifacts. Archives are read as a stream, never unpacked, and no name in them becomes a path."""

from __future__ import annotations

import posixpath
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from installer import debfile, tarstream, wheelarchive

MAX_TEXT = 2 << 20  # bytes of one licence text; the longest real ones are some hundred kilobytes
MAX_TEXTS = 500  # of one artifact
MAX_TOTAL = 32 << 20  # bytes of all texts of one artifact
NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|use_policy|eula)", re.IGNORECASE)
IN_PACKAGE = re.compile(r"(licen[cs]e|copying|notice|eula)([-_.][^/]*)?", re.IGNORECASE)  # a whole file name
DIST_INFO = re.compile(r"^[^/]+\.dist-info/(licenses/.+|[^/]+)$")
CODE = (".py", ".pyi", ".pyc", ".so", ".h", ".json")  # modules that are called licence are not licences
COPYRIGHT = re.compile(r"^usr/share/doc/([^/]+)/copyright$")
DOC = re.compile(r"^usr/share/doc/([^/]+)$")


@dataclass(frozen=True)
class Text:
    """One licence text as it stands in an artifact."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Found:
    """What an artifact holds: its texts, packages to whose texts it links; ``empty`` when it only names others."""

    texts: tuple[Text, ...] = ()
    links: tuple[str, ...] = ()
    empty: bool = False


def of_wheel(wheel: Path, label: str = "") -> Found:
    """Texts below ``dist-info``, and those that packages carry beside their code. Links and files over ``MAX_TEXT`` are passed over.

    Args:
        label: what to call the wheel in a refusal; in a store its file is named by its hash.

    Raises:
        TrustError: the wheel is damaged or encrypted.
    """
    texts: list[Text] = []
    empty, left = True, MAX_TOTAL
    with wheelarchive.opened(wheel, label) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            empty = empty and ".dist-info/" in info.filename
            name = _text_name(info)
            if not name or len(texts) >= MAX_TEXTS:
                continue
            data = wheelarchive.read(archive, info, min(MAX_TEXT, left))
            if data is not None:
                texts.append(Text(name, data))
                left -= len(data)
    return Found(tuple(texts), empty=empty)


def _text_name(info: zipfile.ZipInfo) -> str:
    """The name of a licence text; empty when the entry is none."""
    climbs = any(part in ("", ".", "..") for part in info.filename.split("/"))
    if climbs or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        return ""
    place = DIST_INFO.match(info.filename)
    if place:
        return place[1] if place[1].startswith("licenses/") or NAMES.match(place[1]) else ""
    base = info.filename.rsplit("/", 1)[-1]
    return info.filename if IN_PACKAGE.fullmatch(base) and not base.lower().endswith(CODE) else ""


def of_deb(deb: Path, label: str = "") -> Found:
    """The ``copyright`` files of a Debian package, and the packages whose documentation it links to; ``label`` as for ``of_wheel``.

    Raises:
        TrustError: its file system archive cannot be read.
    """
    with debfile.files(deb, label) as members:
        return of_members(members)


def of_members(members: tarstream.Reader) -> Found:
    """What a file system's archive has of licence texts, and of links to those of other packages."""
    texts: list[Text] = []
    links: set[str] = set()
    left = MAX_TOTAL
    for member in members:
        name = posixpath.normpath(member.name.lstrip("/"))
        if member.kind == "link" and (COPYRIGHT.match(name) or DOC.match(name)):
            target = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), member.target)).lstrip("/")
            if other := COPYRIGHT.match(target) or DOC.match(target):
                links.add(other[1])
        elif (
            member.kind == "file"
            and member.size <= min(MAX_TEXT, left)
            and COPYRIGHT.match(name)
            and len(texts) < MAX_TEXTS
        ):
            texts.append(Text(name, members.read(MAX_TEXT)))
            left -= member.size
    return Found(tuple(sorted(texts, key=lambda t: t.name)), tuple(sorted(links)))


def of_model_file(path: str, file: Path) -> Found:
    """The file itself when its name says that it is a licence, notice or use policy."""
    name = path.rsplit("/", 1)[-1]
    if not NAMES.match(name) or file.stat().st_size > MAX_TEXT:
        return Found()
    return Found((Text(name, file.read_bytes()),))
