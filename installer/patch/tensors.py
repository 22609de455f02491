"""Patches of weights: the same tensors with other values, as what their bits differ in.

A fine-tune changes a little of nearly every number, so that hardly any run of bytes stays; but of each number only its
last bits. XOR with the base leaves zeros in all other places. The first bytes of all numbers are laid side by side, then
the second, and so on, which makes the zeros long runs, and zstd does the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import TrustError
from installer import safetensors
from installer.patch import zstd
from installer.patch.frames import mapped
from installer.patch.index import Index, Part, Stage
from installer.patch.make import File, ahead, require_signed, write

CODEC = "tensors"
LEVEL = 3  # 9 is three times slower and saves a tenth
RAW = 8 << 20  # bytes of a stage


@dataclass(frozen=True)
class _Tensor:
    """A tensor's place in its file. ``like`` is what must be the same for a difference to make sense."""

    begin: int
    end: int
    width: int
    like: tuple[object, ...]


@dataclass(frozen=True)
class _Piece:
    """Bytes of the target; those with a ``base`` are XORed with as many bytes there. ``width`` is of one number, in bytes."""

    begin: int
    length: int
    base: int | None = None
    width: int = 0


def make(base: File, target: File, out: Path, *, limit: int) -> int:
    """Write the patch to ``out`` and try it; its size in bytes, or 0 when it would be longer than ``limit``, or when one of
    the files is not what its name says.

    Raises:
        TrustError: a file is not what its hash says.
    """
    with mapped(base.path) as old, mapped(target.path) as new:
        require_signed(old, base)
        try:
            before, after = _tensors(base), _tensors(target)
        except TrustError:
            return 0
        stages = ahead(lambda pieces: _stage(pieces, old, new), _groups(_pieces(before, after, target.size)))
        index = Index(CODEC, base.sha256, base.size, target.sha256, target.size, zstd.version(), 0, ())
        return write(index, stages, base.path, out, limit)


def _tensors(file: File) -> dict[str, _Tensor]:
    """All tensors by name.

    Raises:
        TrustError: the header is not sound.
    """
    with file.path.open("rb") as opened:
        safetensors.check(opened, file.size, file.path.name)
        opened.seek(0)
        start = 8 + int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(start - 8))
    header.pop("__metadata__", None)
    return {
        name: _Tensor(
            start + told["data_offsets"][0],
            start + told["data_offsets"][1],
            max(1, safetensors.DTYPE_BITS[told["dtype"]] // 8),
            (told["dtype"], *told["shape"]),
        )
        for name, told in header.items()
    }


def _pieces(before: dict[str, _Tensor], after: dict[str, _Tensor], size: int) -> Iterator[_Piece]:
    """The target from begin to end, in pieces of at most ``RAW`` bytes."""
    at = 0
    for name, new in sorted(after.items(), key=lambda t: (t[1].begin, t[1].end)):
        yield from _cut(_Piece(at, new.begin - at))
        old = before.get(name)
        same = old is not None and old.like == new.like
        yield from _cut(_Piece(new.begin, new.end - new.begin, old.begin if old and same else None, new.width))
        at = new.end
    yield from _cut(_Piece(at, size - at))


def _cut(piece: _Piece) -> Iterator[_Piece]:
    for at in range(0, piece.length, RAW):  # a multiple of every width
        base = None if piece.base is None else piece.base + at
        yield _Piece(piece.begin + at, min(RAW, piece.length - at), base, piece.width if base is not None else 0)


def _groups(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces of one width together, so that thousands of small tensors are not thousands of stages."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and (group[0].width != piece.width or sum(p.length for p in group) + piece.length > RAW):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _stage(pieces: list[_Piece], old: memoryview, new: memoryview) -> tuple[Stage, bytes]:
    width, length = pieces[0].width, sum(p.length for p in pieces)
    raw = b"".join(new[p.begin : p.begin + p.length] for p in pieces)
    ranges = tuple((p.base, p.length, 0) for p in pieces if p.base is not None)
    if width:
        raw = grouped(b"".join(old[o : o + n] for o, n, _ in ranges), raw, width)
    payload = zstd.compress(raw, LEVEL)
    return Stage(ranges, len(payload), length, ((Part.PLAIN, length, length),), width), payload


def grouped(base: bytes | bytearray, target: bytes | bytearray, width: int) -> bytes:
    """What the bits differ in, the first bytes of all numbers of ``width`` bytes first."""
    bits = np.frombuffer(base, np.uint8) ^ np.frombuffer(target, np.uint8)
    return bits.reshape(-1, width).T.tobytes()


def ungrouped(base: bytes | bytearray, bits: bytes | bytearray, width: int) -> bytearray:
    """The target again, from the base and what `grouped` gave."""
    out = bytearray(base)
    numbers = np.frombuffer(out, np.uint8).reshape(-1, width)
    numbers ^= np.frombuffer(bits, np.uint8).reshape(width, -1).T
    return out
