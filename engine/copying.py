"""Copy signed files out of a bundle: the bytes that are hashed are the bytes that are written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from engine import tree
from engine.blobs import Advance, ignore, pieces
from engine.durable import disk_errors
from engine.errors import TrustError
from engine.trust import Target


def copy_target(bundle: Path, target: Target, destination: Path, advance: Advance = ignore) -> None:
    """Copy one file of ``bundle`` to ``destination``, which must not exist, and flush it to disk.

    Raises:
        TrustError: the bytes are not those that were signed; a medium may answer differently the second time.
        ResourceError: the disk is full.
    """
    digest, done = hashlib.sha256(), 0
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tree.open_beneath(bundle, target.path) as source, destination.open("xb") as copy:
            for piece in pieces(source, target.size + 1):
                digest.update(piece)
                copy.write(piece)
                done += len(piece)
                advance(len(piece))
            copy.flush()
            os.fsync(copy.fileno())
    if done != target.size or digest.hexdigest() != target.sha256:
        destination.unlink()
        raise TrustError(
            "the file is not as signed", where=target.path, remedy="Do not use this medium; copy the bundle again."
        )


def copy_piece(bundle: Path, target: Target, index: int, destination: Path, advance: Advance = ignore) -> None:
    """Copy piece number ``index`` of a file to ``destination``, which must not exist.

    Raises:
        TrustError: the bytes are not those that were signed.
        ResourceError: the disk is full.
    """
    start = index * target.chunk_size
    left, digest = min(target.chunk_size, target.size - start), hashlib.sha256()
    with disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tree.open_beneath(bundle, target.path) as source, destination.open("xb") as copy:
            source.seek(start)
            for piece in pieces(source, left):
                digest.update(piece)
                copy.write(piece)
                left -= len(piece)
                advance(len(piece))
            copy.flush()
            os.fsync(copy.fileno())
    if left or digest.hexdigest() != target.chunks[index]:
        destination.unlink()
        raise TrustError(
            f"piece {index} is not as signed",
            where=target.path,
            remedy="Do not use this medium; copy the bundle again.",
        )


def read_target(bundle: Path, target: Target, limit: int) -> bytes:
    """A small signed file in memory, hashed before anybody looks at it.

    Args:
        limit: bytes; a longer file is refused unread.

    Raises:
        TrustError: too long, missing, or not as signed.
    """
    refused = f"longer than {limit:,} bytes" if target.size > limit else ""
    data = b""
    if not refused:
        try:
            with tree.open_beneath(bundle, target.path) as file:
                data = file.read(target.size + 1)
        except FileNotFoundError:
            refused = "missing"
    if not refused and hashlib.sha256(data).hexdigest() != target.sha256:
        refused = "not as signed"
    if refused:
        raise TrustError(
            f"the file is {refused}",
            where=target.path,
            remedy="`appliance verify` lists every file that is not as signed.",
        )
    return data
