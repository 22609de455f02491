"""Reading a directory that someone else filled: no link is followed, no path climbs out."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.errors import TrustError

MAX_PATH = 1024  # bytes; longer names are refused before anything is opened


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
        or any(part in ("", ".", "..") for part in parts)
        or any(ord(c) < 32 or ord(c) == 127 or c == "\\" or 0xD800 <= ord(c) <= 0xDFFF for c in path)
        or unicodedata.normalize("NFC", path) != path
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


def walk(root: Path) -> Iterator[Entry]:
    """Every entry below ``root`` that is not a directory, without following links."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for here, _dirs, names, dir_fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
            for name in (*names, *(d for d in _dirs if _is_link(d, dir_fd))):
                info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                kind = "file" if stat.S_ISREG(info.st_mode) else "link" if stat.S_ISLNK(info.st_mode) else "special"
                yield Entry(os.path.normpath(os.path.join(here, name)), kind, info.st_size)  # noqa: PTH118
    finally:
        os.close(top)


def _is_link(name: str, dir_fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)


def open_beneath(root: Path, path: str) -> BinaryIO:
    """Open the regular file ``path`` below ``root``, refusing a link in any component.

    Raises:
        TrustError: a component is a link, or the end is not a regular file.
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
