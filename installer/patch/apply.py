"""Rebuild a file from an older one and a patch, in bounded memory, from any byte on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

from engine.blobs import CHUNK, Advance, ignore
from engine.errors import ResourceError, TrustError
from installer.patch import zstd
from installer.patch.index import Index, Part, Stage

WORKERS = min(4, os.cpu_count() or 1)  # each holds at most a reference twice and a payload twice, about 80 MB


class Sink(Protocol):
    """Where the target goes, as `engine.blobs.Incoming` is: ``done`` bytes are there already."""

    done: int

    def write(self, chunk: bytes, /) -> None: ...


def require_library(index: Index) -> None:
    """Blocks are compressed again only by the version that compressed them.

    Raises:
        ResourceError: this machine has another one.
    """
    if index.level and index.libzstd != zstd.version():
        raise ResourceError(
            f"this patch makes blocks as libzstd {index.libzstd} does; here is {zstd.version()}",
            remedy="Make the delta from this site's receipt, which tells the version, or without --patch.",
        )


def apply(index: Index, start: int, patch: BinaryIO, base: BinaryIO, sink: Sink, advance: Advance = ignore) -> None:
    """Write what ``sink`` lacks of the target. The caller compares the whole with its signed hash.

    Args:
        start: where in ``patch`` the first payload begins.

    Raises:
        TrustError: the patch does not fit this base.
        ResourceError: another libzstd is needed.
    """
    require_library(index)
    begin, waiting = 0, deque[tuple[Stage, int, Future[Iterator[bytes]]]]()
    with ThreadPoolExecutor(WORKERS) as workers:
        try:
            for stage in index.stages:
                if begin + stage.size > sink.done:
                    skip = max(0, sink.done - begin) if not waiting else 0
                    made = workers.submit(_make, stage, index.level, start, patch.fileno(), base.fileno())
                    waiting.append((stage, skip, made))
                if len(waiting) > WORKERS:
                    _write(*waiting.popleft(), base.fileno(), sink, advance)
                begin += stage.size
                start += stage.payload
            while waiting:
                _write(*waiting.popleft(), base.fileno(), sink, advance)
        finally:
            workers.shutdown(wait=True, cancel_futures=True)


def _make(stage: Stage, level: int, at: int, patch: int, base: int) -> Iterator[bytes]:
    """The parts of the stage that are not copies, in order."""
    if not stage.raw:
        return iter(())
    reference = bytearray()
    for offset, length, raw in stage.ranges:
        data = _read(base, offset, length)
        reference += zstd.decompress(data, raw) if raw else data
    payload = _read(patch, at, stage.payload)
    if stage.width:
        from installer.patch.tensors import ungrouped  # noqa: PLC0415  numpy takes a while to load

        plain = memoryview(ungrouped(reference, zstd.decompress(payload, stage.raw), stage.width))
    else:
        plain = memoryview(zstd.decompress(payload, stage.raw, reference))
    used, out = 0, []
    for kind, raw, length in stage.parts:
        if kind == Part.COPY:
            continue
        piece = plain[used : used + raw]
        used += raw
        part = zstd.pack(piece, level) if kind == Part.PACK else bytes(piece)
        if len(part) != length:
            raise TrustError("a block did not come out as it was", remedy="Make the delta again, without --patch.")
        out.append(part)
    return iter(out)


def _write(stage: Stage, skip: int, made: Future[Iterator[bytes]], base: int, sink: Sink, advance: Advance) -> None:
    parts = made.result()
    for kind, offset, length in stage.parts:
        for piece in _copied(base, offset, length, skip) if kind == Part.COPY else (next(parts)[skip:],):
            sink.write(piece)
            advance(len(piece))
        skip = max(0, skip - length)


def _copied(base: int, offset: int, length: int, skip: int) -> Iterator[bytes]:
    at, end = offset + skip, offset + length
    while at < end:
        data = _read(base, at, min(CHUNK, end - at))
        yield data
        at += len(data)


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    if len(data) != length:
        raise TrustError("the patch does not fit the file it is for", remedy="Make the delta again.")
    return data
