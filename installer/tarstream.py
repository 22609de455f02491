"""Tar archives of strangers, member by member from a stream: nothing is unpacked, no name becomes a path.

The standard library's reader takes a member's own word for how much it shall read into memory (long names, pax headers,
maps of sparse files), and the extraction filters of Debian 12's Python are not there. Its parser of one header is used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NoReturn

from engine.errors import TrustError

BLOCK = 512
CHUNK = 1 << 20
MAX_HEADER = 1 << 20  # bytes of one long name or pax header; extended attributes are the longest that are honest
MAX_MEMBERS = 5_000_000
NO_DATA = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)
FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
Kind = Literal["file", "link", "hardlink", "directory", "other"]
KINDS: dict[bytes, Kind] = {tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "hardlink", tarfile.DIRTYPE: "directory"}


@dataclass(frozen=True)
class Member:
    """One entry. ``size`` in bytes; ``target`` of a link; ``mode`` are its permission bits."""

    name: str
    kind: Kind
    size: int
    target: str = ""
    mode: int = 0o644


class Reader:
    """The members of a tar stream; ``read`` gives the content of the one that came last.

    Raises:
        TrustError: it is no tar, is cut, or has a header that no honest archive has.
    """

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self._stream, self._where = stream, where
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        told: dict[str, str] = {}
        for count in range(MAX_MEMBERS):
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            block = self._stream.read(BLOCK)
            if block == bytes(BLOCK) or (count and not block):
                return
            if len(block) != BLOCK:
                self._refuse("it is cut")
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.TarError, ValueError, OverflowError) as error:
                self._refuse(str(error))
            size = info.size
            if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                found = self._pax(self._header(size))
                told = told if info.type == tarfile.XGLTYPE else {**told, **found}
                continue
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                name = self._header(size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
                told["path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"] = name
                continue
            if info.type == tarfile.GNUTYPE_SPARSE:
                self._sparse(block)
            yield self._member(info, told)
            told = {}
        self._refuse(f"it has more than {MAX_MEMBERS:,} members")

    def read(self, limit: int) -> bytes:
        """At most ``limit`` bytes of the member that came last; what is longer is cut."""
        data = self._exactly(min(limit, self._left))
        self._left -= len(data)
        return data

    def _member(self, info: tarfile.TarInfo, told: dict[str, str]) -> Member:
        size = info.size
        if digits := told.get("size"):
            if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
                self._refuse("a size is no number")
            size = int(digits)
        if info.type in NO_DATA:
            size = 0
        if not 0 <= size < 1 << 62:
            self._refuse("a size is not possible")
        self._left, self._padding = size, -size % BLOCK
        kind: Kind = "file" if info.type in FILES else KINDS.get(info.type, "other")
        return Member(told.get("path", info.name), kind, size, told.get("linkpath", info.linkname), info.mode & 0o7777)

    def _header(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            self._refuse(f"a header claims {size} bytes")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    def _pax(self, data: bytes) -> dict[str, str]:
        """``LENGTH KEY=VALUE`` records (POSIX.1-2001, pax); those that say where and how large."""
        found: dict[str, str] = {}
        while data.strip(b"\0"):
            digits, _, rest = data.partition(b" ")
            if not (digits.isdigit() and len(digits) < 9 and len(digits) + 3 <= int(digits) <= len(data)):
                self._refuse("a pax header is damaged")
            record = rest[: int(digits) - len(digits) - 2]
            key, equals, value = record.partition(b"=")
            if not equals:
                self._refuse("a pax header is damaged")
            if key in (b"path", b"linkpath", b"size"):
                found[key.decode()] = value.decode("utf-8", "surrogateescape")
            data = data[int(digits) :]
        return found

    def _sparse(self, block: bytes) -> None:
        """Pass over the map of an old GNU sparse file, which goes on while its last byte says so."""
        more = block[482]
        while more:
            more = self._exactly(BLOCK)[504]

    def _exactly(self, n: int) -> bytes:
        data = self._stream.read(n)
        if len(data) != n:
            self._refuse("it is cut")
        return data

    def _skip(self, n: int) -> None:
        while n:
            got = len(self._stream.read(min(n, CHUNK)))
            if not got:
                self._refuse("it is cut")
            n -= got

    def _refuse(self, why: str) -> NoReturn:
        raise TrustError(
            f"its archive of files cannot be read: {why}", where=self._where, remedy="Get it again from a sound source."
        )
