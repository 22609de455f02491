"""Patches of wheels whose content the receiver has as a runtime image: unpacked files are there, deflate makes the wheel of them.

A wheel is a zip archive. Each member is inflated, referred to in the image's blocks, and deflated again on arrival with
zlib's defaults, which is what Python's zipfile, and so every build backend written in Python, uses. A member that does
not come out the same here is carried as it is.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer.patch import zstd
from installer.patch.apply import deflater
from installer.patch.frames import mapped, segments
from installer.patch.index import Index, Part
from installer.patch.make import RAW, Draft, File, Reference, ahead, reference, require_signed, stage, write

CODEC = "wheel"
PIECE = RAW // 2  # bytes of a member's content that are deflated in one go
EVERY = 8  # an image has millions of samples; one of so many is enough to find content that is there unchanged
LOCAL = struct.Struct(
    "<4s22xHH"
)  # a member's own header: signature, and lengths of name and extra field (APPNOTE 4.3.7)


@contextmanager
def library(image: File) -> Iterator[Reference]:
    """A runtime image to refer to, looked through once for all wheels of a release.

    Raises:
        TrustError: it is not what its hash says.
    """
    with mapped(image.path) as data:
        require_signed(data, image)
        yield reference(data, segments(data), EVERY)


def make(image: File, known: Reference, target: File, out: Path, *, limit: int) -> int:
    """Write the patch to ``out`` and try it; its size in bytes, or 0 when it would be longer than ``limit``.

    Args:
        known: the library of ``image``.

    Raises:
        TrustError: the wheel is not what its hash says.
    """
    with mapped(target.path) as new:
        try:
            members = list(_members(new, target.path))
        except (zipfile.BadZipFile, struct.error):
            return 0
        stages = ahead(lambda draft: stage(draft, known), _drafts(_pieces(new, members)))
        index = Index(CODEC, image.sha256, image.size, target.sha256, target.size, zstd.version(), 0, ())
        return write(index, stages, image.path, out, limit)


_Piece = tuple[Part, bytes, int]


def _drafts(pieces: Iterator[_Piece]) -> Iterator[Draft]:
    """Pieces in stages."""
    draft = Draft()
    for kind, raw, length in pieces:
        if draft.raw + len(raw) > RAW:
            yield draft
            draft = Draft()
        draft.put(raw, kind, length)
    yield draft


def _pieces(new: memoryview, members: list[tuple[int, int]]) -> Iterator[_Piece]:
    """The archive: members that deflate again as their content, all else as it is."""
    at = 0
    for begin, end in [*members, (len(new), len(new))]:
        lengths = _lengths(new[begin:end])
        plain_end = begin if lengths else end
        for start in range(at, plain_end, PIECE):
            yield Part.PLAIN, bytes(new[start : min(start + PIECE, plain_end)]), 0
        for raw, length in zip(_inflated(new[begin:end]), lengths, strict=False):
            yield Part.DEFLATE, raw, length
        if lengths:
            yield Part.END, b"", lengths[-1]
        at = end


def _inflated(packed: memoryview) -> Iterator[bytes]:
    """A member's content in pieces.

    Raises:
        zlib.error: it is damaged.
    """
    stream = zlib.decompressobj(-15)
    raw = stream.decompress(packed, PIECE)
    while raw:
        while (
            len(raw) < PIECE
            and not stream.eof
            and (more := stream.decompress(stream.unconsumed_tail, PIECE - len(raw)))
        ):
            raw += more
        yield raw
        raw = stream.decompress(stream.unconsumed_tail, PIECE)


def _lengths(packed: memoryview) -> list[int]:
    """How many bytes zlib gives after each piece of the content and at the end; none when they are not these bytes."""
    if not packed:
        return []
    stream, at, lengths = deflater(), 0, []
    try:
        for raw in _inflated(packed):
            out = stream.compress(raw)
            if packed[at : at + len(out)] != out:
                return []
            at += len(out)
            lengths.append(len(out))
    except zlib.error:
        return []
    out = stream.flush()
    return [*lengths, len(out)] if packed[at:] == out else []


def _members(new: memoryview, path: Path) -> Iterator[tuple[int, int]]:
    """Where the deflated content of each member lies, in order."""
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
            if info.compress_type == zipfile.ZIP_DEFLATED:
                _, name, extra = LOCAL.unpack_from(new, info.header_offset)
                begin = info.header_offset + LOCAL.size + name + extra
                yield begin, begin + info.compress_size
