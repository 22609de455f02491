"""Hashes of the pieces of a blob, so that a relayed byte can be checked long before the whole blob is there.

A list comes from the depot over the depot's own TLS connection. It decides what a node passes on, never what it trusts: the whole
blob is still compared with its signed hash. A wrong list therefore costs time and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from engine.blobs import Blobs, pieces

PIECE = 256 << 10  # bytes; a hop of the chain is a piece late, which is 10 ms at 200 Mbit/s
LEAST = 1 << 20  # bytes; shorter blobs have no list and are passed on whole
WIDTH = hashlib.sha256().digest_size


def list_length(size: int) -> int:
    """Bytes of the list of a blob of ``size`` bytes."""
    return -(-size // PIECE) * WIDTH


def make(file: BinaryIO) -> bytes:
    """The list of the rest of ``file``: the SHA-256 of every piece, one after the other."""
    digests, piece, left = bytearray(), hashlib.sha256(), PIECE
    for part in pieces(file):
        while part:
            piece.update(part[:left])
            taken = min(left, len(part))
            part, left = part[taken:], left - taken  # noqa: PLW2901
            if not left:
                digests += piece.digest()
                piece, left = hashlib.sha256(), PIECE
    return bytes(digests if left == PIECE else digests + piece.digest())


class Pieces:
    """The list of one blob of ``size`` bytes.

    Raises:
        ValueError: the list has another length than such a blob's.
    """

    def __init__(self, raw: bytes, size: int) -> None:
        if len(raw) != list_length(size):
            raise ValueError(f"a list of {len(raw)} bytes cannot be that of {size} bytes of content")
        self._raw = raw
        self.size = size

    def right(self, start: int, data: bytes | memoryview) -> bool:
        """Whether ``data`` is the whole piece that begins at byte ``start``, a multiple of PIECE."""
        at = start // PIECE * WIDTH
        return (
            not start % PIECE
            and len(data) == min(PIECE, self.size - start)
            and hashlib.sha256(data).digest() == self._raw[at : at + WIDTH]
        )


def trim(blobs: Blobs, sha256: str, known: Pieces) -> int:
    """Cut what an earlier attempt left of a blob to the pieces that are right; returns how many bytes stay."""
    with blobs.leftover(sha256) as file:
        if file is None:
            return 0
        good = 0
        for part in pieces(file):  # a full buffer is one piece
            if not known.right(good, part):
                break
            good += len(part)
        file.truncate(good)
        return good
