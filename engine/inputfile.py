"""One way to read a file that an operator names: a regular file, read once and up to a limit.

A device gives bytes without end, a pipe that nothing writes to is waited for without end, and a directory, a file of another owner
or a file of another encoding each fail in their own way. Here every one of them is one sentence that names the file.
"""

from __future__ import annotations

import os
import select
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from engine import refusals
from engine.errors import InputError

KINDS = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
PIECE = 1 << 20


@dataclass(frozen=True)
class Given:
    """A file as it was read. ``mode`` is that of the open file (``stat.st_mode``)."""

    data: bytes
    mode: int


def read(path: Path, limit: int, what: str = "it", remedy: str = "") -> bytes:
    """The bytes of a regular file.

    Args:
        limit: of its size, in bytes.
        what: names the file in messages, after "cannot read".
        remedy: what to do where there is no such file, or it is another kind of file or too large.

    Raises:
        InputError: there is no such file, it is not a regular file, or is larger than ``limit``.
        ResourceError: it may not be read, or the device failed.
    """
    return given(path, limit, what, remedy).data


def text(path: Path, limit: int, what: str = "it", remedy: str = "") -> str:
    """The text of a regular file in UTF-8.

    Raises:
        InputError: as ``read``, or it is not UTF-8; names the line.
        ResourceError: as ``read``.
    """
    return decoded(path, read(path, limit, what, remedy), what)


def decoded(path: Path, data: bytes, what: str = "it") -> str:
    """Bytes of a file as text.

    Raises:
        InputError: they are not UTF-8; names the line.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"cannot read {what}: the line is not text in UTF-8", where=f"{path}:{line}", remedy="Save it as UTF-8."
        ) from error


def given(path: Path, limit: int, what: str = "it", remedy: str = "", *, pipe_s: float = 0) -> Given:
    """A file with its mode; arguments and errors as those of ``read``.

    Args:
        pipe_s: accept a pipe without a name too, as a shell makes one of ``<(command)``, and wait so many seconds for its end.
    """
    try:
        # Without O_NONBLOCK opening a pipe waits for its other end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(error, path, what, remedy) from error
    except ValueError as error:  # a NUL in the name
        raise InputError(
            f"cannot read {what}: not the name of a file", where=ascii(str(path)), remedy="Correct the path."
        ) from error
    try:
        mode = os.fstat(fd).st_mode
        if pipe_s and stat.S_ISFIFO(mode) and not _has_a_name(fd):
            data = _piped(fd, path, limit, what, time.monotonic() + pipe_s)
        elif stat.S_ISREG(mode):
            data = _whole(fd, limit)
        else:
            kind = next((name for holds, name in KINDS if holds(mode)), "a special file")
            raise InputError(
                f"cannot read {what}: this is {kind}, not a regular file",
                where=str(path),
                remedy=remedy or "Name a regular file.",
            )
    except OSError as error:
        raise _refused(error, path, what, remedy) from error
    finally:
        os.close(fd)
    if len(data) > limit:
        raise InputError(
            f"cannot read {what}: larger than {_size(limit)}",
            where=str(path),
            remedy=remedy or "Name the right file.",
        )
    return Given(data, mode)


def _whole(fd: int, limit: int) -> bytes:
    """At most ``limit`` bytes and one: the size that the file system tells may be another by then, and is 0 below /proc."""
    pieces, left = [], limit + 1
    while left and (piece := os.read(fd, min(PIECE, left))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _has_a_name(fd: int) -> bool:
    """Whether a pipe is in a directory: nothing may ever write to such a one."""
    return not str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("pipe:")


def _piped(fd: int, path: Path, limit: int, what: str, until: float) -> bytes:
    data = b""
    while len(data) <= limit:
        if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
            raise InputError(
                f"cannot read {what}: the pipe did not end in time", where=str(path), remedy="Name a regular file."
            )
        piece = os.read(fd, limit + 1 - len(data))
        if not piece:
            break
        data += piece
    return data


def _refused(error: OSError, path: Path, what: str, remedy: str) -> Exception:
    found = refusals.explained(error, path, f"read {what}")
    if found is None:
        return InputError(f"cannot read {what}: {error.strerror}", where=str(path), remedy=remedy or "Check its name.")
    if isinstance(found, InputError) and remedy:
        return InputError(found.what, where=found.where, remedy=remedy)
    return found


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
