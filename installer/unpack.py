"""Decompression of what strangers packed: as a stream, in little memory, and no further than an honest packer could mean.

Deflate reaches 1029:1 and zstd beyond 32 000:1, so a file's size says nothing of what comes out of it. What was signed or
listed as the size is the bound where there is one; elsewhere it is a multiple of the packed size.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from engine.errors import ResourceError, TrustError
from engine.process import fixed

RATIO = 200  # packages, layers and indexes have 2 to 20
FLOOR = 128 << 20  # bytes that may always come out; small archives of zeros are honest now and then
MEMORY = 128 << 20  # bytes for a dictionary; `xz -9` needs 65 MiB, `zstd -19` 8
BUFFER = 1 << 20
XZ, GZIP, ZSTD = b"\xfd7zXZ\x00", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZSTD_CALL = ("zstd", "-dcq", f"--memory={MEMORY >> 20}MB")
# A decoder with many threads reserves memory for each; one is enough.
ENV = {"DPKG_DEB_THREADS_MAX": "1", "LC_ALL": "C.UTF-8"}
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error)
Read = Callable[[int], bytes]


def allowance(packed: int) -> int:
    """Bytes that may come out of ``packed`` bytes."""
    return FLOOR + RATIO * packed


class Bounded(io.RawIOBase):
    """A stream that ends in a refusal when more than ``limit`` bytes come out of it, or when it is damaged."""

    def __init__(self, read: Read, limit: int, where: str) -> None:
        self._read, self._left, self._limit, self._where = read, limit, limit, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer, which typing cannot say in 3.11
        try:
            data = self._read(len(buffer))
        except DAMAGED as error:
            raise TrustError(
                f"it cannot be unpacked: {error}", where=self._where, remedy="Get it again from a sound source."
            ) from error
        self._left -= len(data)
        if self._left < 0:
            raise TrustError(
                f"more than {self._limit:,} bytes come out of it, which no honest file of its size holds",
                where=self._where,
                remedy="Do not use it. If it is meant to be so, its publisher can pack it in another way.",
            )
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def opened(path: Path, limit: int | None = None, where: str = "") -> Iterator[BinaryIO]:
    """The unpacked content of a gzip, xz, zstd or plain file, told by its first bytes.

    Args:
        limit: bytes that may come out; by the packed size when it is not known.
        where: what to call the file in a refusal.

    Raises:
        TrustError: it is damaged, or more comes out (while it is read).
        ResourceError: it is zstd, and the program ``zstd`` is not installed.
    """
    where = where or path.name
    limit = allowance(path.stat().st_size) if limit is None else limit
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        magic = raw.read(6)
        raw.seek(0)
        if magic.startswith(ZSTD):
            read = stack.enter_context(_piped([*ZSTD_CALL, "--", str(path)], "zstd", "zstd"))
        elif magic == XZ:
            read = _xz(raw)
        elif magic.startswith(GZIP):
            read = stack.enter_context(gzip.GzipFile(fileobj=raw)).read
        else:
            read = raw.read
        yield io.BufferedReader(Bounded(read, limit, where), BUFFER)


@contextlib.contextmanager
def output(argv: list[str], limit: int, where: str, *, program: str, package: str) -> Iterator[BinaryIO]:
    """What ``program``, somewhere in ``argv``, unpacks to standard output, bounded; it is ended when the block is left.

    Raises:
        TrustError: too much comes out, or the program fails (while it is read).
        ResourceError: the program is not installed.
    """
    with _piped(argv, program, package) as read:
        yield io.BufferedReader(Bounded(read, limit, where), BUFFER)


@contextlib.contextmanager
def _piped(argv: list[str], program: str, package: str) -> Iterator[Read]:
    if shutil.which(program) is None:
        raise ResourceError(f"{program} is not installed", remedy=f"Install it: apt-get install {package}")
    # Not engine.process.run: what comes out is binary and may be gigabytes, so it is read as it comes.
    with (
        tempfile.TemporaryFile() as err,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=err, env={**fixed(), **ENV}) as process,
    ):
        assert process.stdout is not None  # noqa: S101
        out = process.stdout

        def read(n: int) -> bytes:
            data = out.read(n)
            if not data and n and process.wait() != 0:
                err.seek(0)
                said = err.read(2000).decode(errors="replace").strip()
                raise EOFError(said or f"{program} ended with {process.returncode}")
            return data

        try:
            yield read
        finally:
            process.kill()


def _xz(raw: BinaryIO) -> Read:
    """Reads of an xz file that may hold several streams. ``lzma.LZMAFile`` has no limit for the dictionary."""
    state = [lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)]

    def read(n: int) -> bytes:
        while True:
            if state[0].eof:
                rest = (state[0].unused_data or raw.read(BUFFER)).lstrip(b"\0")  # padding between streams
                if not rest:
                    return b""
                state[0] = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
                data = state[0].decompress(rest, n)
            else:
                feed = raw.read(BUFFER) if state[0].needs_input else b""
                if state[0].needs_input and not feed:
                    raise EOFError("it ends before its end-of-stream mark")
                data = state[0].decompress(feed, n)
            if data:
                return data

    return read
