"""Content-addressed files: the builder's cache, the depot and a node's store are all this.

A blob's name is its SHA-256. A file gets that name only after its bytes were hashed while they were written and
flushed to disk, so a name that exists is content that was verified on arrival.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine import interruption, placing
from engine.durable import disk_errors, set_mode, sync_dir
from engine.errors import ApplianceError, TrustError

CHUNK = 1 << 20  # bytes a read; larger reads measured no faster once hashing is the limit
HASH_CHUNK = (
    256 << 10
)  # bytes of the buffer that files are hashed and copied through: fits into every core's L2, and no slower than more
EARLY = 8 << 20  # bytes after which a file that is being written is sent on to its disk
Advance = Callable[[int], None]


def ignore(_n_bytes: int) -> None:
    """The ``Advance`` of callers that do not watch."""


class Blobs:
    """A store below ``root``: ``sha256/ab/abcd…`` for content, ``partial/`` for content on its way in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the blob is or would be."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ApplianceError(f"not a SHA-256 in hexadecimal: {sha256[:80]!r}")
        return self.root / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str, size: int) -> bool:
        """Whether the blob is here with that size in bytes."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    @contextmanager
    def incoming(self, sha256: str, size: int) -> Iterator[Incoming]:
        """Open the blob for writing where an earlier attempt stopped.

        On leaving without an error the bytes must be complete: they are compared with ``size`` and ``sha256``,
        flushed and given their final name. Otherwise what arrived stays for the next attempt.

        Raises:
            TrustError: the bytes are not the blob. They are deleted, for resuming them could never succeed.
            ResourceError: the disk is full.
        """
        final, partial = self.path(sha256), self.root / "partial" / sha256
        with disk_errors(partial):
            partial.parent.mkdir(parents=True, exist_ok=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            with os.fdopen(fd, "r+b") as file:
                fcntl.flock(fd, fcntl.LOCK_EX)  # two fetchers of one blob take turns; the second finds it finished
                if self.has(sha256, size):
                    partial.unlink(missing_ok=True)
                    yield Incoming(None, size, size)
                    return
                incoming = Incoming(file, size)
                incoming.rehash()
                yield incoming
                if incoming.done != size or incoming.digest() != sha256:
                    partial.unlink(missing_ok=True)
                    raise TrustError(
                        f"the content is not what was promised: {incoming.done} bytes with SHA-256 {incoming.digest()}, "
                        f"expected {size} bytes with {sha256}"
                    )
                file.flush()
                os.fsync(fd)
                set_mode(fd, 0o444, final)
                partial.replace(final)
            sync_dir(final.parent)

    @contextmanager
    def leftover(self, sha256: str) -> Iterator[BinaryIO | None]:
        """What an earlier attempt left of a blob, open for reading and cutting; None when there is nothing."""
        try:
            fd = os.open(self.root / "partial" / self.path(sha256).name, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            yield None
            return
        with os.fdopen(fd, "r+b", buffering=0) as file:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield file

    def keep(self, path: Path) -> tuple[str, int]:
        """Take in a file that was made here: hash it, flush it, give it its name. The file itself is gone then.

        Returns:
            SHA-256 in hexadecimal and length in bytes.
        """
        with disk_errors(path), os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            sha256, size = hash_stream(file)
            os.fsync(file.fileno())
            set_mode(file.fileno(), 0o444, path)
            final = self.path(sha256)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(final)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                placing.place(path, final, sha256, size)
                path.unlink()
            sync_dir(final.parent)
        return sha256, size

    def adopt(self, sha256: str, size: int, file: BinaryIO, advance: Advance = ignore) -> bool:
        """Make the very file behind ``file`` the blob, without a copy: it is hashed through this descriptor and then linked.

        From then on the file is the store's. It must therefore be ours, lose its write permission, and nobody may have it open
        for writing (a read lease is only granted then). Of what remains, a privileged writer, the caller must be told.

        Returns:
            False where it cannot be done: another file system or owner, an open writer. Nothing has changed then but the mode.

        Raises:
            TrustError: the bytes are not the blob.
        """
        fd, final = file.fileno(), self.path(sha256)
        before = os.fstat(fd)
        final.parent.mkdir(parents=True, exist_ok=True)
        if before.st_uid != os.geteuid() or before.st_dev != final.parent.stat().st_dev:
            return False
        try:
            os.fchmod(fd, 0o444)
        except OSError:  # a file system without permissions cannot keep others from writing into it
            return False
        if os.fstat(fd).st_mode & 0o222 or not _nobody_writes(fd):
            return False
        found, length = hash_stream(file, advance)
        after = os.fstat(fd)
        if (found, length) != (sha256, size) or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
            raise TrustError(
                f"the content is not what was promised: {length} bytes with SHA-256 {found}, "
                f"expected {size} bytes with {sha256}"
            )
        os.fsync(fd)
        try:
            # By descriptor and not by name. Python only follows this link when it is also given a directory.
            os.link(f"/proc/self/fd/{fd}", final, src_dir_fd=fd, follow_symlinks=True)
        except FileExistsError:
            return True
        except OSError:
            return False
        sync_dir(final.parent)
        return True

    def shares(self, file: BinaryIO) -> bool:
        """Whether the file system would share this file's blocks with a blob, so that it takes no second place."""
        try:
            fd = os.open(self.root, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError:
            return False
        try:
            return placing.share(file.fileno(), fd)
        except OSError:
            return False
        finally:
            os.close(fd)

    def link(self, sha256: str, destination: Path, *, copies: bool = True) -> int:
        """Give the blob a second name at ``destination``; bytes that had to be copied, where links cannot be (``placing``).

        Args:
            copies: False where only the very file will do.

        Raises:
            TrustError: the blob rotted, which a copy shows.
            ResourceError: only the very file will do, and it cannot be linked.
        """
        source = self.path(sha256)
        return placing.place(source, destination, sha256, source.stat().st_size, copies=copies)


class Incoming:
    """A blob being written: knows how much is there and what it hashes to."""

    def __init__(self, file: BinaryIO | None, size: int, done: int = 0) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = size
        self.done = done  # bytes already on disk
        self._sent = done

    @property
    def complete(self) -> bool:
        return self.done >= self.size

    def rehash(self) -> None:
        """Hash what an earlier attempt left; a part longer than the blob is dropped."""
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size > self.size:
            self.restart()
        self._file.seek(0)
        for piece in pieces(self._file):
            self._hash.update(piece)
            self.done += len(piece)
        self._sent = self.done

    def clone(self, source_fd: int) -> bool:
        """Share the blocks of a file on the same file system, copy on write, where that can share (XFS, Btrfs), and hash them here.

        What is hashed is our own file: whoever writes into the source afterwards changes the source alone.
        """
        if self._file is None or self.done:
            return False
        if not placing.share(source_fd, self._file.fileno()):
            return False
        self.rehash()
        return True

    def restart(self) -> None:
        """Throw away what is there, for a source that cannot continue in the middle."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate(0)
            self._hash, self.done, self._sent = hashlib.sha256(), 0, 0

    def write(self, chunk: bytes | memoryview) -> None:
        """Append. Never writes more than ``size`` bytes, however long a hostile source goes on.

        Raises:
            TrustError: the source sends more than was promised.
        """
        if self._file is None:
            return
        if self.done + len(chunk) > self.size:
            self.restart()
            raise TrustError(f"the source sends more than the promised {self.size} bytes")
        self._file.write(chunk)
        self._hash.update(chunk)
        self.done += len(chunk)
        if self.done - self._sent >= EARLY:
            # Let the disk begin, so that the flush at the end finds little to do: Linux starts to write the dirty pages of
            # a range that is said not to be needed, and drops only those that are on the disk by then (posix_fadvise(2)).
            os.posix_fadvise(self._file.fileno(), self._sent, self.done - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self.done

    def show(self) -> None:
        """Let other processes see what was written so far."""
        if self._file is not None:
            self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()


def _nobody_writes(fd: int) -> bool:
    """Whether no process has the file open for writing: only then the kernel gives a read lease (fcntl(2))."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


class _Buffers(threading.local):
    """One buffer a thread: making and clearing one for each of 20 000 small files took a third of their verification.

    It stays in the core's second cache, so that only the read from the page cache goes to memory.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(HASH_CHUNK))


_OWN = _Buffers()


def pieces(file: BinaryIO, limit: int | None = None) -> Iterator[memoryview]:
    """The rest of ``file``, or its next ``limit`` bytes, piece by piece in this thread's one buffer: use each before the next."""
    buffer = _OWN.buffer
    while n := file.readinto(buffer if limit is None else buffer[:limit]):  # type: ignore[attr-defined]
        interruption.stop_if_asked()
        yield buffer[:n]
        limit = None if limit is None else limit - n


def hash_stream(file: BinaryIO, advance: Advance = ignore) -> tuple[str, int]:
    """SHA-256 in hexadecimal and length in bytes of the rest of ``file``, in constant memory."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces(file):
        digest.update(piece)
        length += len(piece)
        advance(len(piece))
    return digest.hexdigest(), length


def hash_chunks(path: Path, chunk_size: int) -> tuple[str, int, tuple[str, ...]]:
    """SHA-256 and length of a regular file, and the SHA-256 of each piece of ``chunk_size`` bytes; read once."""
    whole, length, pieces = hashlib.sha256(), 0, []
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        while True:
            piece, left = hashlib.sha256(), chunk_size
            while left and (data := file.read(min(CHUNK, left))):
                whole.update(data)
                piece.update(data)
                left -= len(data)
                length += len(data)
            if left < chunk_size:
                pieces.append(piece.hexdigest())
            if left:
                return whole.hexdigest(), length, tuple(pieces)


def hash_file(path: Path, advance: Advance = ignore) -> tuple[str, int]:
    """SHA-256 and length of a regular file; never follows a link in the last component."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        return hash_stream(file, advance)
