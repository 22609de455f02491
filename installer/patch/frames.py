"""A file as the zstd frames in it and what lies between: the blocks of a squashfs image, without knowing squashfs."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer.patch import zstd

MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK = 1 << 20  # bytes; the longest block of squashfs, and the longest piece of what is no frame
REACH = BLOCK + (64 << 10)  # bytes; no frame of a block is longer


WINDOW = 64 << 10  # bytes searched at a time


@dataclass(frozen=True)
class Segment:
    """A frame that holds ``raw`` bytes, or plain bytes (``raw`` 0). ``digest`` is of the bytes as they lie in the file."""

    offset: int
    length: int
    raw: int
    digest: bytes


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """A file's bytes without reading them; writable for the sake of ctypes, but private: nothing reaches the file."""
    if not path.stat().st_size:
        yield memoryview(bytearray())
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data,
        memoryview(data) as view,
    ):
        yield view


def segments(data: memoryview) -> Iterator[Segment]:
    """Every byte in exactly one segment, in order. What looks like a frame may still turn out to be none."""
    plain = at = 0  # first byte not given out yet, and the next one to look at
    while at < len(data):
        found = _next(data, at)
        raw = zstd.content_size(data[found : found + 18])
        length = zstd.frame_length(data[found : found + REACH]) if 0 < raw <= BLOCK else 0
        at = found + (length or len(MAGIC))
        if length or at >= len(data):
            end = found if length else len(data)
            for start in range(plain, end, BLOCK):
                yield _segment(data, start, min(BLOCK, end - start), 0)
            if length:
                yield _segment(data, found, length, raw)
            plain = at


def _next(data: memoryview, at: int) -> int:
    """Where the next frame seems to begin; the end when none does.

    In copies of windows: Python 3.11's mmap.find reads one byte behind the mapping, which faults when a file fills its pages.
    """
    for start in range(at, len(data), WINDOW):
        found = bytes(data[start : start + WINDOW + len(MAGIC) - 1]).find(MAGIC)
        if found >= 0:
            return start + found
    return len(data)


def _segment(data: memoryview, offset: int, length: int, raw: int) -> Segment:
    return Segment(offset, length, raw, hashlib.blake2b(data[offset : offset + length], digest_size=16).digest())
