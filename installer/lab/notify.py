"""Seccomp's user notification: the kernel stops a process at a system call and asks us first.

What a node does with sockets is seen here, at the call, whichever network namespace, firewall or sandbox the process is in, and
without anything on the node. Constants and layouts: linux/seccomp.h, linux/filter.h and linux/audit.h; they are kernel ABI.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass

from engine.errors import ResourceError

AF_PACKET = 17
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5  # a signal does not interrupt a call that we are looking at
_ALLOW, _NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_CONTINUE = 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_AT_NUMBER, _AT_ARCH, _AT_FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000  # x86's calls with 32-bit pointers, which would pass by the numbers below
_RECEIVE, _SEND, _STILL_THERE = 0xC0502100, 0xC0182101, 0x40082102


@dataclass(frozen=True)
class Abi:
    """What one processor calls the system calls by."""

    arch: int
    seccomp: int
    calls: dict[str, int]


_NEWER = {"io_uring_setup": 425, "pidfd_getfd": 438}  # numbered alike everywhere
ABIS = {
    "x86_64": Abi(0xC000003E, 317, {"socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, **_NEWER}),
    "aarch64": Abi(0xC00000B7, 277, {"socket": 198, "connect": 203, "sendto": 206, "sendmsg": 211, "sendmmsg": 269, **_NEWER}),
}  # fmt: skip


def abi() -> Abi:
    """Of this machine.

    Raises:
        ResourceError: it is another than we know.
    """
    machine = platform.machine()
    if machine not in ABIS:
        raise ResourceError(f"nodes cannot be watched on {machine}", remedy=f"Use one of {', '.join(ABIS)}.")
    return ABIS[machine]


def program(of: Abi) -> bytes:
    """The filter: notify of calls that name a destination, and of sockets for raw frames.

    io_uring would send past the filter, so it is answered as by a kernel without it; so are calls of another processor.
    """
    notified = [of.calls[name] for name in ("connect", "sendto", "sendmsg", "sendmmsg")]
    tests = [(_EQUAL, number, "notify") for number in notified]
    tests += [(_EQUAL, of.calls["io_uring_setup"], "absent"), (_AT_LEAST, _X32, "absent")]
    # Layout: arch, number, the tests, then the check of socket(), then the three ends.
    end = {"allow": 2 + 1 + len(tests) + 3, "notify": 2 + 1 + len(tests) + 4, "absent": 2 + 1 + len(tests) + 5}
    lines = [_line(_LOAD, _AT_ARCH), _line(_EQUAL, of.arch, 0, end["absent"] - 2), _line(_LOAD, _AT_NUMBER)]
    for code, value, target in tests:
        lines.append(_line(code, value, end[target] - len(lines) - 1, 0))
    lines.append(_line(_EQUAL, of.calls["socket"], 0, end["allow"] - len(lines) - 1))
    lines.append(_line(_LOAD, _AT_FIRST_ARGUMENT))
    lines.append(_line(_EQUAL, AF_PACKET, end["notify"] - len(lines) - 1, 0))
    lines += [_line(_RETURN, _ALLOW), _line(_RETURN, _NOTIFY), _line(_RETURN, _ERRNO | errno.ENOSYS)]
    return b"".join(lines)


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def listen() -> int:
    """Put the filter on the calling thread and on all that it starts from now on; return what `receive` reads from.

    Raises:
        ResourceError: the kernel does not let us.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    of = abi()
    text = program(of)
    lines = ctypes.create_string_buffer(text, len(text))
    wanted = Program(len(text) // 8, ctypes.addressof(lines))
    flags = _NEW_LISTENER | _WAIT_KILLABLE
    listener = _syscall(of.seccomp, _SET_MODE_FILTER, flags, ctypes.addressof(wanted))
    if listener < 0:
        raise ResourceError(
            f"nodes cannot be watched: seccomp says {os.strerror(ctypes.get_errno())}",
            remedy="Run as root on Linux 5.19 or newer, outside a container that has a listener of its own.",
        )
    return listener


@dataclass(frozen=True)
class Call:
    """A system call that waits for our answer. ``thread`` as this process sees it; ``arguments`` are raw."""

    id: int
    thread: int
    name: str
    arguments: tuple[int, ...]


def receive(listener: int) -> Call | None:
    """Wait for the next call; None when its process went away meanwhile."""
    raw = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, raw, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, thread, _, call, _, _, *arguments = struct.unpack("=QIIiIQ6Q", raw)
    name = next((n for n, value in abi().calls.items() if value == call), str(call))
    return Call(number, thread, name, tuple(arguments))


def proceed(listener: int, call: Call) -> None:
    """Let the call happen as if nobody had looked."""
    try:
        fcntl.ioctl(listener, _SEND, bytearray(struct.pack("=QqiI", call.id, 0, 0, _CONTINUE)), True)
    except OSError as error:
        if error.errno != errno.ENOENT:  # its process was killed
            raise


def waits(listener: int, call: Call) -> bool:
    """Whether the process still waits: only then what was read of it was its own, and not of a later process."""
    try:
        fcntl.ioctl(listener, _STILL_THERE, struct.pack("=Q", call.id))
    except OSError:
        return False
    return True


def borrow(process: int, descriptor: int) -> int:
    """A copy of another process's open file.

    Raises:
        OSError: process or descriptor is gone.
    """
    handle = os.pidfd_open(process)
    try:
        copied = _syscall(abi().calls["pidfd_getfd"], handle, descriptor, 0)
        if copied < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return copied
    finally:
        os.close(handle)


_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: int) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)))
