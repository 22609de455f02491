"""Rebuild a file from an older one and a patch, in bounded memory, from any byte on."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

from engine.blobs import CHUNK, Advance, ignore
from engine.errors import ResourceError, TrustError
from installer.patch import zstd
from installer.patch.index import Index, Part, Stage

WORKERS = min(4, os.cpu_count() or 1)  # each holds at most a reference twice and a payload twice, about 80 MB


_Coming = tuple[Stage, Future[Iterator[bytes]]]


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
    first, begin = _resume(index, sink.done)
    start += sum(s.payload for s in index.stages[:first])
    writer, waiting = _Writer(base.fileno(), sink, sink.done - begin, advance), deque[_Coming]()
    with ThreadPoolExecutor(WORKERS) as workers:
        try:
            for stage in index.stages[first:]:
                made = workers.submit(_make, stage, index.level, start, patch.fileno(), base.fileno())
                waiting.append((stage, made))
                if len(waiting) > WORKERS:
                    writer.write(*waiting.popleft())
                start += stage.payload
            while waiting:
                writer.write(*waiting.popleft())
        finally:
            workers.shutdown(wait=True, cancel_futures=True)


def _resume(index: Index, done: int) -> tuple[int, int]:
    """The stage to begin with and where in the target it begins: the last before ``done`` that no deflate stream runs into."""
    found, begin, running = (0, 0), 0, False
    for number, stage in enumerate(index.stages):
        if begin > done:
            break
        if not running:
            found = number, begin
        begin += stage.size
        streams = [kind for kind, _, _ in stage.parts if kind in (Part.DEFLATE, Part.END)]
        running = streams[-1] == Part.DEFLATE if streams else running
    return found


def _make(stage: Stage, level: int, at: int, patch: int, base: int) -> Iterator[bytes]:
    """The bytes of the payload for each part that has some, in order; frames are made of them already."""
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
    for kind, raw, _ in stage.parts:
        if kind in (Part.PACK, Part.PLAIN, Part.DEFLATE):
            piece = plain[used : used + raw]
            used += raw
            out.append(zstd.pack(piece, level) if kind == Part.PACK else bytes(piece))
    return iter(out)


class _Writer:
    """Puts the parts of stages together, in order; the first ``skip`` bytes are there already."""

    def __init__(self, base: int, sink: Sink, skip: int, advance: Advance) -> None:
        self._base, self._sink, self._skip, self._advance = base, sink, skip, advance
        self._deflate: zlib._Compress | None = None

    def write(self, stage: Stage, made: Future[Iterator[bytes]]) -> None:
        pieces = made.result()
        for kind, first, length in stage.parts:
            if kind == Part.COPY:
                self._copy(first, length)
                continue
            piece = self._deflated(kind, pieces)
            if len(piece) != length:
                raise TrustError("a part did not come out as it was", remedy="Make the delta again, without --patch.")
            self._put(piece)

    def _deflated(self, kind: int, pieces: Iterator[bytes]) -> bytes:
        """What a part gives. The stream goes on from stage to stage."""
        if kind == Part.END:
            stream, self._deflate = self._deflate or deflater(), None
            return stream.flush()
        if kind == Part.DEFLATE:
            self._deflate = self._deflate or deflater()
            return self._deflate.compress(next(pieces))
        return next(pieces)

    def _copy(self, offset: int, length: int) -> None:
        begin = min(self._skip, length)
        self._skip -= begin
        for at in range(offset + begin, offset + length, CHUNK):
            self._put(_read(self._base, at, min(CHUNK, offset + length - at)))

    def _put(self, piece: bytes) -> None:
        kept = piece[self._skip :] if self._skip else piece
        self._skip -= len(piece) - len(kept)
        if kept:
            self._sink.write(kept)
            self._advance(len(kept))


def deflater() -> zlib._Compress:
    """What zipfile compresses with when nothing else is said."""
    return zlib.compressobj(6, zlib.DEFLATED, -15)


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    if len(data) != length:
        raise TrustError("the patch does not fit the file it is for", remedy="Make the delta again.")
    return data
