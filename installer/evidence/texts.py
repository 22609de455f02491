"""Licence texts inside artifacts. Archives are read as a stream, never unpacked, and no name in them becomes a path."""

from __future__ import annotations

import posixpath
import re
import stat
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from engine.errors import TrustError

MAX_TEXT = 2 << 20  # bytes of one licence text; the longest real ones are some hundred kilobytes
MAX_TEXTS = 500  # of one artifact
NAMES = re.compile(r"(licen[cs]e|copying|copyright|notice|use_policy|eula)", re.IGNORECASE)
WHEEL_PLACE = re.compile(r"^[^/]+\.dist-info/(licenses/.+|[^/]+)$")
COPYRIGHT = re.compile(r"^usr/share/doc/([^/]+)/copyright$")
DOC = re.compile(r"^usr/share/doc/([^/]+)$")


@dataclass(frozen=True)
class Text:
    """One licence text as it stands in an artifact."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Found:
    """What an artifact holds: its texts, and packages to whose texts it links."""

    texts: tuple[Text, ...] = ()
    links: tuple[str, ...] = ()


def of_wheel(wheel: Path) -> Found:
    """Texts below ``dist-info``. Links and files over ``MAX_TEXT`` are passed over."""
    texts: list[Text] = []
    with zipfile.ZipFile(wheel) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            place = WHEEL_PLACE.match(info.filename)
            if not place or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                continue
            inside = place[1]
            if not (inside.startswith("licenses/") or NAMES.match(inside)):
                continue
            with archive.open(info) as file:  # the size that the archive claims may be a lie
                data = file.read(MAX_TEXT + 1)
            if len(data) <= MAX_TEXT and len(texts) < MAX_TEXTS:
                texts.append(Text(inside, data))
    return Found(tuple(texts))


def of_deb(deb: Path) -> Found:
    """The ``copyright`` files of a Debian package, and the packages whose documentation it links to.

    Raises:
        TrustError: its file system archive cannot be read.
    """
    # Not engine.process.run: the archive is binary and may be gigabytes, so it is read as it comes.
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None  # noqa: S101
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                return _of_tar(archive)
        except (tarfile.TarError, EOFError) as error:
            raise TrustError(
                f"the package's files cannot be read: {error}", where=deb.name, remedy="Lock again from a sound source."
            ) from error
        finally:
            process.kill()


def _of_tar(archive: tarfile.TarFile) -> Found:
    texts: list[Text] = []
    links: set[str] = set()
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # tarfile remembers every member; packages hold hundreds of thousands
        name = posixpath.normpath(member.name.lstrip("/"))
        if member.issym() and (COPYRIGHT.match(name) or DOC.match(name)):
            target = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), member.linkname)).lstrip("/")
            if other := COPYRIGHT.match(target) or DOC.match(target):
                links.add(other[1])
        elif COPYRIGHT.match(name) and member.isreg() and member.size <= MAX_TEXT and len(texts) < MAX_TEXTS:
            file = archive.extractfile(member)
            texts.append(Text(name, file.read(MAX_TEXT) if file else b""))
    return Found(tuple(sorted(texts, key=lambda t: t.name)), tuple(sorted(links)))


def of_model_file(path: str, file: Path) -> Found:
    """The file itself when its name says that it is a licence, notice or use policy."""
    name = path.rsplit("/", 1)[-1]
    if not NAMES.match(name) or file.stat().st_size > MAX_TEXT:
        return Found()
    return Found((Text(name, file.read_bytes()),))
