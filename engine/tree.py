"""Reading a directory that someone else filled: no link is followed, no path climbs out."""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine import refusals
from engine.errors import TrustError
from engine.report import printable

MAX_PATH = 1024  # bytes; longer names are refused before anything is opened
NOT_PLAIN = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")  # control characters, backslash, halves of characters
NO_NAMES = frozenset(("", ".", ".."))
MAX_ENTRIES = 250_000  # files and directories of a listing; a bundle has at most 100 000 targets


@dataclass(frozen=True)
class Entry:
    """Something below the root that is not a directory. ``kind`` is file, link or special; ``size`` in bytes."""

    path: str
    kind: str
    size: int


def check_path(path: str) -> str:
    """Return ``path`` if it is a plain relative path that is safe on every file system we serve.

    Raises:
        TrustError: absolute, climbing, empty or dot components, control characters, backslash, not in Unicode
            form NFC, or too long.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH
        or not NO_NAMES.isdisjoint(parts)
        or NOT_PLAIN.search(path) is not None
        or not unicodedata.is_normalized("NFC", path)
    )
    if bad:
        raise TrustError(
            "the metadata names a path that is not allowed",
            where=repr(path[:200]),
            remedy="Do not use this bundle; ask its builder.",
        )
    return path


def collisions(paths: Iterator[str] | list[str]) -> list[tuple[str, str]]:
    """Pairs of paths that are one file on a file system that ignores case."""
    seen: dict[str, str] = {}
    pairs = []
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", path.casefold()), path)
        if other != path:
            pairs.append((other, path))
    return pairs


# What the machine or the user's rights refuse, whatever is on the medium.
REFUSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def walk(root: Path) -> Iterator[Entry]:
    """Every entry below ``root`` that is not a directory, without following links.

    Raises:
        TrustError: too many entries, too deep, or a directory was exchanged or cannot be listed.
    """
    # A list of directories and not recursion: how deep a medium is must not decide over this process's stack or files.
    waiting, seen = [""], 0
    while waiting:
        here = waiting.pop()
        try:
            fd = _directory(root, here)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        seen += 1
                        path = f"{here}/{entry.name}" if here else entry.name
                        if seen > MAX_ENTRIES or len(os.fsencode(path)) > MAX_PATH:
                            raise TrustError(
                                "there are more files, or longer paths, than a bundle may have",
                                where=printable(path[:200], ""),
                                remedy="Give the directory of a bundle; if this is one, do not use it.",
                            )
                        info = entry.stat(follow_symlinks=False)
                        if stat.S_ISDIR(info.st_mode):
                            waiting.append(path)
                            continue
                        kind = (
                            "file"
                            if stat.S_ISREG(info.st_mode)
                            else "link"
                            if stat.S_ISLNK(info.st_mode)
                            else "special"
                        )
                        yield Entry(path, kind, info.st_size)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in REFUSED:
                error.filename = str(root / here)
                raise refusals.explained(error, doing="list") or error from error
            raise TrustError(
                f"cannot be listed, or changed while it was read: {error.strerror}",
                where=printable(str(root / here), ""),
                remedy="Make sure that nothing else writes there and that it is readable, then try again.",
            ) from error


def _directory(root: Path, path: str) -> int:
    """A descriptor of the directory ``path`` below ``root``, no component of which is a link."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for part in path.split("/") if path else ():
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def open_beneath(root: Path, path: str) -> BinaryIO:
    """Open the regular file ``path`` below ``root``, refusing a link in any component.

    Raises:
        TrustError: a component is a link, or the end is not a regular file.
        ResourceError: this user may not read it, or the device failed.
        FileNotFoundError: it is not there.
    """
    parts = check_path(path).split("/")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for i, part in enumerate(parts):
            # O_NONBLOCK: opening a planted FIFO must not hang.
            flags = os.O_RDONLY | os.O_NOFOLLOW | (os.O_NONBLOCK if i == len(parts) - 1 else os.O_DIRECTORY)
            try:
                below = os.open(part, flags, dir_fd=fd)
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in REFUSED:  # of this machine or this user, and nothing against the bundle
                    error.filename = str(root / path)
                    raise refusals.explained(error, doing="read") or error from error
                raise TrustError(
                    "not a plain file inside the bundle", where=path, remedy="Do not use this bundle; ask its builder."
                ) from error
            os.close(fd)
            fd = below
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise TrustError("not a regular file", where=path, remedy="Do not use this bundle; ask its builder.")
        return os.fdopen(fd, "rb", buffering=0)
    except BaseException:
        os.close(fd)
        raise
