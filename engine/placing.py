"""One way to give content a second name: a link where the file system has them, else shared blocks, else a copy.

Whoever lays content out (bundles, views, folders for another program) calls ``place`` and nothing else, so that a target
on another file system, or on one without links, needs no code of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from engine import durable
from engine.errors import ResourceError, TrustError

FICLONE = 0x40049409  # ioctl of linux/fs.h
PIECE = 1 << 20  # bytes read at a time


def place(
    source: Path,
    destination: Path,
    sha256: str,
    size: int,
    advance: Callable[[int], None] = lambda _n_bytes: None,
    *,
    copies: bool = True,
) -> int:
    """Give the file ``source`` a second name; returns the bytes that had to be copied, 0 for a link or shared blocks.

    A copy is hashed while it is written and has its name only when it is whole and flushed. What lies at ``destination``
    already is replaced, unless it is that very file.

    Args:
        sha256, size: what the content is, in hexadecimal and bytes.
        copies: False where only the very file will do.

    Raises:
        TrustError: ``source`` does not hold that content (any more).
        ResourceError: only the very file will do, and it cannot be linked.
        OSError: anything but a file system that cannot link.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:
        if os.path.samestat(destination.stat(follow_symlinks=False), source.stat()):
            return 0
        destination.unlink()
        return place(source, destination, sha256, size, advance, copies=copies)
    except OSError as error:
        if error.errno not in durable.CANNOT:
            raise
        if not copies:
            raise ResourceError(
                f"the content there cannot be linked: {error.strerror}",
                where=str(destination),
                remedy="Keep the whole store on one file system with hard links: ext4, XFS or Btrfs.",
            ) from error
        return _copy(source, destination, sha256, size, advance)
    return 0


def share(source_fd: int, destination_fd: int) -> bool:
    """Share a file's blocks, copy on write; False where the file system cannot (only XFS, Btrfs and few others can)."""
    try:
        fcntl.ioctl(destination_fd, FICLONE, source_fd)
    except OSError:
        return False  # what else may be wrong shows in the copy that follows
    return True


def _copy(source: Path, destination: Path, sha256: str, size: int, advance: Callable[[int], None]) -> int:
    temporary = destination.with_name(f".{secrets.token_hex(8)}.part")  # short: the name may be as long as names can be
    later = durable.flushed_later(destination)
    try:
        with (
            os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as old,
            temporary.open("xb", buffering=0) as new,
        ):
            shared = share(old.fileno(), new.fileno())
            copied = 0 if shared else _stream(old.fileno(), new.fileno(), sha256, size, advance)
            durable.set_mode(new.fileno(), 0o444, temporary)
            if not later:
                os.fsync(new.fileno())
        temporary.replace(destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not later:
        durable.sync_dir(destination.parent)
    return copied


def _stream(source_fd: int, destination_fd: int, sha256: str, size: int, advance: Callable[[int], None]) -> int:
    digest, done = hashlib.sha256(), 0
    while done <= size and (data := os.read(source_fd, PIECE)):
        digest.update(data)
        left = memoryview(data)
        while left:
            left = left[os.write(destination_fd, left) :]
        done += len(data)
        advance(len(data))
    if done != size or digest.hexdigest() != sha256:
        raise TrustError(
            f"the content is not what its name says: {done} bytes with SHA-256 {digest.hexdigest()}, expected {size} bytes "
            f"with {sha256}",
            remedy="Its disk is damaged: remove the file and run the same command again.",
        )
    return done
