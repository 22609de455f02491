"""Runs a program that is not trusted with nothing but the directories it needs: `python -I -S sandbox.py WAY OPTIONS -- PROGRAM …`.

Three ways. ``namespaces``: file system, network, processes and IPC of its own, in which only the system's programs and the named paths exist,
read-only but for those that it writes; where this process is root, another user, too. ``user``: only that user. ``none``: the same user.
With all of them no program that is executed gains privileges.

Started with the bare interpreter, so it imports nothing of this project. `engine.bounds` limits memory, disk and time of what it starts.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MS_RELATIME = 1 << 21
KEPT = 1 | 8 | 1024 | 2048  # read-only, noexec, noatime, nodiratime: a user namespace may not take these off a mount
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
SCRATCH = 16 << 20  # bytes of /tmp and of /dev/shm, where Python keeps the locks of its worker processes

libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> int:
    """Exit with the code of the program."""
    parser = argparse.ArgumentParser(prog="sandbox")
    parser.add_argument("way", choices=("namespaces", "user", "none"))
    parser.add_argument("--root", required=True, help="an empty directory to build the file system at")
    parser.add_argument("--read", action="append", default=[], help="a path that exists inside, read-only")
    parser.add_argument("--write", action="append", default=[], help="a path that exists inside and may be written")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(argv)
    return inside(options.way, Path(options.root), options.read, options.write, lambda: _execute(options.program))


def inside(way: str, place: Path, read: Sequence[str], write: Sequence[str], work: Callable[[], int]) -> int:
    """Do ``work`` in the sandbox, and return its exit code. This process has no other threads, and is of no use for anything else then.

    Args:
        way: ``namespaces``, ``user``, or ``none``, which only forbids new privileges.
        place: an empty directory to build the file system at.
        read, write: absolute paths that exist inside; those in ``write`` are given to the user that the work runs as.
    """
    root = is_root()
    for path in write if root and way != "none" else ():
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    if way == "namespaces":
        _enter(place, [*SYSTEM, *read], write, root=root)
        return _as_first_process(work, root=root)
    _become_nobody(root=root and way == "user")
    return work()


def is_root() -> bool:
    """Whether this process may become another user."""
    return os.geteuid() == 0


def _enter(place: Path, read: Sequence[str], write: Sequence[str], *, root: bool) -> None:
    """Into namespaces where ``place`` is the root of the file system and holds these paths."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID
    _call("unshare", libc.unshare(flags | (0 if root else CLONE_NEWUSER)))
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", str(place), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    for path in ("dev/shm", "tmp"):
        (place / path).mkdir(parents=True)
        _mount("tmpfs", str(place / path), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={SCRATCH},mode=1777")
    for path in DEVICES:
        _bind(place, path, 0, device=True)
    for path in read:
        _bind(place, path, MS_RDONLY)
    for path in write:
        _bind(place, path, MS_NOEXEC)
    os.chdir(place)
    _call("pivot_root", libc.pivot_root(b".", b"."))
    _call("umount", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    _mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind(place: Path, path: str, flags: int, *, device: bool = False) -> None:
    """``path`` at the same place below ``place``; a link stays one, what is not there stays away."""
    source, target = Path(path), place / path.lstrip("/")
    if not os.path.lexists(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    _mount(path, str(target), "", MS_BIND | (0 if device else MS_REC))
    kept = os.statvfs(target).f_flag & KEPT
    kept |= 0 if kept & 1024 else MS_RELATIME
    _mount("none", str(target), "", MS_REMOUNT | MS_BIND | MS_NOSUID | (0 if device else MS_NODEV) | flags | kept)


def _as_first_process(work: Callable[[], int], *, root: bool) -> int:
    """Do it in a process whose parent is the first of its namespace: when that ends, the kernel ends whatever was left running."""
    first = os.fork()
    if first == 0:
        _call("prctl", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        worker = os.fork()
        if worker == 0:
            code = 70
            try:
                _become_nobody(root=root)
                code = work()
                sys.stdout.flush()
            except BaseException as error:  # nothing of this process's stack may run in its parent's place
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(worker, 0)
        os._exit(_code(status))
    _, status = os.waitpid(first, 0)
    return _code(status)


def _become_nobody(*, root: bool) -> None:
    """Root's user and groups go, and with the user all capabilities; nothing that is executed gives any back."""
    if root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _call("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _execute(program: Sequence[str]) -> int:
    try:
        os.execvp(program[0], list(program))  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error.strerror}\n")
    return 127


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done = libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _call(f"mount {target}", done)


def _call(what: str, result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
