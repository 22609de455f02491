"""What a patch file says of itself, checked before anything is done with it.

    "appliance patch 1\\n", packed and plain length of the index (8 bytes each, little-endian), the index (zstd, JSON), payloads

The target is made in stages, one after the other. A stage has its payload (one zstd frame that refers to ranges of the
base) and parts: bytes copied from the base, bytes of the payload as they are, and bytes of the payload that are compressed
again. Every stage's payload can be unpacked alone, so that a stopped rebuild is continued at any byte.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, BinaryIO

from engine.errors import TrustError
from installer.patch import zstd

MAGIC = b"appliance patch 1\n"
LENGTHS = struct.Struct("<QQ")
MAX_INDEX = 8 << 20  # bytes; an image of 10 GB has about 2 MB
MAX_RAW = 10 << 20  # bytes of one stage's payload, unpacked
MAX_REFERENCE = 26 << 20  # bytes of one stage's reference, unpacked
WIDTHS = (0, 1, 2, 4, 8)  # bytes of a number; 0 where a stage is not of numbers
SLACK = 1 << 16  # bytes by which something that does not compress may grow
HELD = 1 << 18  # bytes that zlib may give later than it took what they are of


class Part(IntEnum):
    """Where the bytes of a part come from: ``COPY`` (offset in the base, length), ``PACK`` (bytes of the payload, length as
    a frame), ``PLAIN`` (bytes of the payload, the same), ``DEFLATE`` (bytes of the payload that a deflate stream takes, bytes
    that it gives then), ``END`` (0, bytes that the stream gives when it ends).
    """

    COPY = 0
    PACK = 1
    PLAIN = 2
    DEFLATE = 3
    END = 4


@dataclass(frozen=True)
class Stage:
    """One stage. Lengths in bytes.

    Attributes:
        ranges: offset, length and, of a zstd frame, unpacked length (else 0), of what the payload refers to.
        parts: what it is, and two numbers.
        width: 0 when the payload refers to the ranges; else it is the XOR of the target with them, grouped by the bytes of
            numbers of that width (installer.patch.tensors).
    """

    ranges: tuple[tuple[int, int, int], ...]
    payload: int
    raw: int
    parts: tuple[tuple[int, int, int], ...]
    width: int = 0

    @property
    def size(self) -> int:
        """Bytes of the target that it makes."""
        return sum(p[2] for p in self.parts)


@dataclass(frozen=True)
class Index:
    """A patch file's description. ``level`` 0: nothing is compressed again, so ``libzstd`` does not matter."""

    codec: str
    base: str
    base_size: int
    target: str
    target_size: int
    libzstd: str
    level: int
    stages: tuple[Stage, ...]


def dump(index: Index) -> bytes:
    """The begin of the patch file."""
    plain = json.dumps(asdict(index), separators=(",", ":")).encode()
    packed = zstd.compress(plain, 9)
    return MAGIC + LENGTHS.pack(len(packed), len(plain)) + packed


def load(file: BinaryIO, size: int) -> tuple[Index, int]:
    """The description in a patch file of ``size`` bytes, and where the first payload begins.

    Raises:
        TrustError: it is malformed, or asks for more than any honest patch.
    """
    head = file.read(len(MAGIC) + LENGTHS.size)
    if len(head) < len(MAGIC) + LENGTHS.size or not head.startswith(MAGIC):
        refuse("it does not begin like one")
    packed, plain = LENGTHS.unpack(head[len(MAGIC) :])
    if packed > size or plain > MAX_INDEX:
        refuse("its index is too long")
    try:
        index = _index(json.loads(zstd.decompress(file.read(packed), plain)))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        refuse(f"its index cannot be read: {error}")
    start = len(head) + packed
    if start + sum(s.payload for s in index.stages) != size:
        refuse("its payloads do not fill it")
    return index, start


def _index(told: Any) -> Index:
    if not isinstance(told, dict):
        raise TypeError("it is no object")
    stages = tuple(
        Stage(
            _triples(s["ranges"]),
            _natural(s["payload"]),
            _natural(s["raw"]),
            _triples(s["parts"]),
            _natural(s["width"]),
        )
        for s in told.pop("stages")
    )
    codec, base, target, libzstd = (str(told[k])[:64] for k in ("codec", "base", "target", "libzstd"))
    base_size, target_size, level = (_natural(told[k]) for k in ("base_size", "target_size", "level"))
    index = Index(codec, base, base_size, target, target_size, libzstd, level, stages)
    if index.level > 22 or sum(s.size for s in stages) != index.target_size:
        raise ValueError("its stages do not make the target")
    for stage in stages:
        _check(stage, index)
    return index


def _check(stage: Stage, index: Index) -> None:
    """All a stage may ask for, so that making it needs no checks: bounded memory, and only bytes that are there."""
    reads = [(o, n) for o, n, _ in stage.ranges] + [(o, n) for kind, o, n in stage.parts if kind == Part.COPY]
    if any(o + n > index.base_size for o, n in reads):
        raise ValueError("it reads behind the end of the base")
    if stage.raw > MAX_RAW or sum(r or n for _, n, r in stage.ranges) > MAX_REFERENCE:
        raise ValueError("a stage is too large")
    if stage.payload > stage.raw + SLACK or any(n > r + SLACK for _, n, r in stage.ranges if r):
        raise ValueError("a stage's payload is too long")
    if stage.width not in WIDTHS:
        raise ValueError("numbers of such a width do not exist")
    if stage.width and (sum(r or n for _, n, r in stage.ranges) != stage.raw or stage.raw % stage.width):
        raise ValueError("a stage's numbers do not fit its base")
    used = 0
    for kind, a, b in stage.parts:
        if kind not in tuple(Part) or (kind == Part.PLAIN and a != b) or (kind == Part.END and a):
            raise ValueError("a part is of no known kind")
        if kind in (Part.DEFLATE, Part.END) and b > a + HELD:
            raise ValueError("a part cannot be deflated like that")
        if kind == Part.PACK and (b > a + SLACK or not index.level):
            raise ValueError("a part cannot be packed like that")
        used += a if kind != Part.COPY else 0
    if used != stage.raw:
        raise ValueError("a stage's parts do not use up its payload")


def _triples(told: Any) -> tuple[tuple[int, int, int], ...]:
    return tuple((_natural(a), _natural(b), _natural(c)) for a, b, c in told)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ValueError("a number in it is not possible")
    return value


def refuse(reason: str) -> None:
    """Raises:
    TrustError: always.
    """
    raise TrustError(
        f"not a sound patch: {reason}", remedy="Make the delta again, without --patch if it happens twice."
    )
