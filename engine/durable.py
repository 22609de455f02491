"""One way to write a file so that a crash leaves the old content or the new, never a part."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from engine import refusals
from engine.errors import ResourceError

# What a file system answers to a call that it does not have: exFAT and FAT have no links and modes, FUSE and network file
# systems leave more out, and each says so in its own way. EPERM is what Linux demands of link(2) there.
CANNOT = frozenset(
    (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EMLINK, errno.ENOTTY)
)


def sync_dir(path: Path) -> None:
    """Flush a directory entry change (a rename) to disk, where the file system can flush directories."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
    finally:
        os.close(fd)


def set_mode(fd: int, mode: int, where: Path) -> None:
    """Give an open file its permissions; those that only say who else may read are left out where a file system has none.

    Raises:
        ResourceError: ``mode`` is for the owner alone and the file system lets others read.
    """
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
    if not mode & 0o077 and stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        raise ResourceError(
            "the file system there keeps no permissions, so others could read a secret",
            where=str(where),
            remedy="Choose a place on ext4, XFS or Btrfs, or mount it for its owner alone (umask=077).",
        )


def sync_file(file: IO[bytes]) -> None:
    """Flush a file's bytes to disk."""
    file.flush()
    os.fsync(file.fileno())


# A directory whose files are flushed together; see ``together``.
_TOGETHER: ContextVar[Path | None] = ContextVar("together", default=None)


@contextmanager
def together(directory: Path) -> Iterator[None]:
    """Flush what is written below ``directory`` once, on leaving, instead of file by file.

    For a directory that nobody looks at before it gets its final name: hundreds of small files then cost one flush and
    not two each.
    """
    token = _TOGETHER.set(directory)
    try:
        yield
    finally:
        _TOGETHER.reset(token)
    _sync_file_system(directory)


def flushed_later(path: Path) -> bool:
    """Whether what is written at ``path`` is flushed by ``together``, so that its writer need not."""
    return (directory := _TOGETHER.get()) is not None and path.is_relative_to(directory)


def _sync_file_system(path: Path) -> None:
    """syncfs(2), which Python does not offer."""
    import ctypes  # noqa: PLC0415  # few callers need it

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def write(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` through a temporary name, fsync and rename.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    later = flushed_later(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(fd, "wb") as out:
                set_mode(fd, mode, path)
                out.write(raw)
                out.flush()
                if not later:
                    os.fsync(fd)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if not later:
            sync_dir(path.parent)


def require_writable(directory: Path, n_bytes: int = 1 << 14) -> None:
    """Prove that ``n_bytes`` can be written below a directory, which is made; for what must not be begun where its result is lost.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
    """
    trial = directory / f".{secrets.token_hex(4)}.tmp"
    write(trial, bytes(n_bytes))
    trial.unlink()


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory of plain files to a place that does not exist: it is there whole, or not at all.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
        InputError: there is no such place.
    """
    write_tree(target, ((p.relative_to(source), p.read_bytes()) for p in sorted(source.rglob("*")) if p.is_file()))


def write_tree(target: Path, files: Iterable[tuple[Path, bytes]]) -> None:
    """Write files into a directory that does not exist: it is there whole, or not at all.

    Args:
        files: their paths, relative to the directory, and contents.

    Raises:
        ResourceError: the disk is full or the place cannot be written.
        InputError: there is no such place.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with disk_errors(target):
        try:
            temporary.mkdir(parents=True)  # first, so that what refuses the place is told by the name that was given
        except OSError as error:
            raise refusals.explained(error, target, "write") or error from error
        try:
            for path, data in files:
                write(temporary / path, data)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_dir(target.parent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals below into a message that says what to free or fix (engine.refusals)."""
    try:
        yield
    except OSError as error:
        if (found := refusals.of_the_disk(error, path)) is None:
            raise
        raise found from error
