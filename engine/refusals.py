"""What the operating system refused, as a message that says where and what to do.

The one table: whoever writes or reads a path of the operator's uses it through engine.durable, and the command line for what nobody
expected. An errno that is not here is a fault of the program and stays one.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from engine.errors import ApplianceError, InputError, ResourceError

OWNER = "Run as the user that owns this path, or choose another path."
NAME = "Correct the path."
FREE = "Free space there and run the same command again; it continues where it stopped."

# This machine does not have it, whatever it was wanted for: said also where the kernel names no path.
MACHINE = {
    errno.ENOSPC: ("the disk is full", FREE),
    errno.EDQUOT: ("the disk quota is used up", FREE),
    errno.EMFILE: ("this process may not open more files", "Raise the limit: ulimit -n 4096."),
    errno.ENFILE: ("this machine may not open more files", "End other programs, or raise fs.file-max."),
    errno.ENOMEM: ("this machine has no memory left", "End other programs, or use a machine with more memory."),
    errno.EIO: ("the device reports an error", "Look into the kernel's log (dmesg), and use another device."),
}  # fmt: skip

# The place is refused.
PLACE = {
    errno.EACCES: OWNER,
    errno.EPERM: OWNER,
    errno.EROFS: "Mount it writable, or choose another path.",
    errno.EFBIG: "Carry it with `appliance split`, which cuts long files, or use a file system that takes them.",
    errno.ETXTBSY: "End the program that runs from there.",
    errno.EBUSY: "End what uses it.",
    errno.ESTALE: "Mount the network file system again.",
    errno.ENODEV: "Connect the device again.",
    errno.ENXIO: "Connect the device again.",
}

# Names under which engine.durable, installer.trust.keys and installer.bundle write, and installer.medium tries a file system.
TEMPORARY = re.compile(r"\.(.+)\.(?:[0-9a-f]{8}\.tmp|making|building)")
SCRATCH = re.compile(r"\.[0-9a-f]{8}\.tmp|\.appliance-[a-z0-9_]{8}")

LOOP = "Symlink loop from "  # how Path.resolve says it, in an error of its own until Python 3.13

# The path is wrong.
PATH = {
    errno.ENOENT: NAME,
    errno.ENOTDIR: "Name a directory; a part of this path is a file.",
    errno.EISDIR: "Name a file; this is a directory.",
    errno.EEXIST: "Choose another path, or move away what is there.",
    errno.ENOTEMPTY: "Choose another path, or move away what is there.",
    errno.ELOOP: "Name the place itself; these symbolic links lead nowhere.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


def of_the_disk(error: OSError, path: Path) -> ApplianceError | None:
    """The message for ``error`` where writing below ``path`` met a full, broken or forbidden place; else None."""
    return explained(error, path, "write") if error.errno in MACHINE or error.errno in PLACE else None


def explained(error: Exception, path: Path | None = None, doing: str = "") -> ApplianceError | None:
    """The message for ``error``; None where it is none of the operator's or the machine's doing.

    Args:
        path: where it happened, unless the error names a path itself.
        doing: what was tried, in a word or two, for example "write".
    """
    if isinstance(error, RuntimeError) and str(error).startswith(LOOP):
        return InputError(
            "symbolic links lead in a circle", where=str(error)[len(LOOP) :].strip("'\" "), remedy=PATH[errno.ELOOP]
        )
    if not isinstance(error, OSError):
        return None
    named = error.filename2 if error.filename2 and _from_temporary(error) else error.filename
    where = os.fsdecode(named) if isinstance(named, str | bytes) and named else str(path or "")
    if path and Path(where).name.startswith(f".{path.name}."):  # a temporary name, gone by now
        where = str(path)
    where = as_given(where)
    number = error.errno or 0
    if number in MACHINE:
        what, remedy = MACHINE[number]
        return ResourceError(what, where=where, remedy=remedy)
    what = f"cannot {doing or 'use'}: {error.strerror}" if doing or where else ""
    if number in PLACE and where:
        return ResourceError(what, where=where, remedy=PLACE[number])
    if number in PATH and where:
        return InputError(what, where=where, remedy=PATH[number])
    return None


def as_given(where: str) -> str:
    """A path with the names that a person gave in place of temporary ones, which are gone by now; what is below a scratch directory
    becomes the directory that this is in. Pure."""
    parts: list[str] = []
    for part in where.split("/"):
        if SCRATCH.fullmatch(part):
            break
        named = TEMPORARY.fullmatch(part)
        parts.append(named[1] if named else part)
    return "/".join(parts)


def _from_temporary(error: OSError) -> bool:
    """Whether the place that a person knows is where a rename would have gone to: something is there, or the other name is temporary."""
    if error.errno == errno.EEXIST:
        return True
    source, target = (Path(os.fsdecode(n)).name for n in (error.filename, error.filename2))
    return source.startswith(f".{target}.")
