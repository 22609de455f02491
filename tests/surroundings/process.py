"""A command in a process of its own, in a mount namespace of its own, over a world that it cannot change.

Starting an interpreter and its libraries for every pair of command and surrounding would take an hour. So the process is a fork of the
test's, in which all modules are loaded; what the interpreter settles at its start (the standard streams) is settled again. The world is the
lower half of an overlay: a command finds it as it was made, at the same paths, and what it wrote is the upper half.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from installer.cli.main import main

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
DEADLINE_S = 120.0  # for a command that hangs; the slowest takes some five seconds
ELSEWHERE = "elsewhere"  # a directory of the world, empty, for what a surrounding needs
CRASHED = 70  # an exception came out of the command line
UNPREPARED = 71  # the surrounding could not be made
UNFLUSHED = 120  # as the interpreter exits when standard output cannot be flushed
STREAMS = "utf-8"  # encoding of the standard streams; a surrounding may change it in its own process
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Case:
    """One command in one surrounding."""

    name: str
    argv: tuple[str, ...]
    world: Path
    prepare: Callable[[], object] = lambda: None  # as root, in the namespace: mounts, files that are in the way
    enter: Callable[[], object] = lambda: None  # in the command's own process
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """How it ended, what it said, and what it left below the world."""

    case: Case
    code: int
    out: str
    err: str
    written: tuple[str, ...]


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2).

    Raises:
        OSError: the kernel refused.
    """
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def read_only(directory: Path) -> None:
    """Make a directory of this namespace one that cannot be written, not by root either."""
    mount(str(directory), directory, flags=MS_BIND)
    mount(str(directory), directory, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def run_all(cases: Iterable[Case], at_once: int = 3) -> Iterator[Done]:
    """Run the cases, some at once; in the order in which they end."""
    waiting, running = iter(cases), dict[int, _Started]()
    poll = select.poll()
    while True:
        while len(running) < at_once and (case := next(waiting, None)) is not None:
            started = _Started(case)
            running[started.handle] = started
            poll.register(started.handle, select.POLLIN)
        if not running:
            return
        ended = [handle for handle, _ in poll.poll(1000)]
        ended += [h for h, s in running.items() if h not in ended and time.monotonic() > s.deadline]
        for handle in ended:
            poll.unregister(handle)
            yield running.pop(handle).finish()


class _Started:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.deadline = time.monotonic() + DEADLINE_S
        self.place = Path(tempfile.mkdtemp(prefix="surrounding-"))
        self.pid = os.fork()
        if self.pid == 0:
            _supervise(case, self.place)
        self.handle = os.pidfd_open(self.pid)

    def finish(self) -> Done:
        if time.monotonic() > self.deadline:
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)
        result, out, err = (self.place / name for name in ("result", "out", "err"))
        said = [p.read_text(errors="backslashreplace") if p.exists() else "" for p in (out, err)]
        code, written = json.loads(result.read_text()) if result.exists() else (-signal.SIGKILL, [])
        for path in (result, out, err):
            path.unlink(missing_ok=True)
        for path in (*self.place.iterdir(), self.place):
            path.rmdir()
        return Done(self.case, code, said[0], said[1], tuple(written))


def _supervise(case: Case, place: Path) -> None:
    """The process that owns the namespace: it runs the command in a child, and says what the child left behind."""
    os.setpgid(0, 0)
    out, err, result = (os.open(place / n, os.O_WRONLY | os.O_CREAT, 0o600) for n in ("out", "err", "result"))
    try:
        upper = _own_world(case.world, place)
        case.prepare()
        before = set(_written(upper, case.world))
        if (pid := os.fork()) == 0:
            os.dup2(out, 1)
            os.dup2(err, 2)
            _command(case)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        os.write(result, json.dumps([code, sorted(set(_written(upper, case.world)) - before)]).encode())
    except BaseException:
        os.write(result, json.dumps([UNPREPARED, []]).encode())
        os.write(err, traceback.format_exc().encode())
    finally:
        os._exit(0)


def _own_world(world: Path, place: Path) -> Path:
    """A namespace in which the world can be changed by nobody else; the directory that takes the changes."""
    if _libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    layers = place / "layers"
    layers.mkdir()
    mount("tmpfs", layers, "tmpfs", options="mode=0755")
    for name in ("upper", "work"):
        (layers / name).mkdir()
    options = f"lowerdir={world},upperdir={layers / 'upper'},workdir={layers / 'work'},redirect_dir=on"
    mount("overlay", world, "overlay", options=options)
    for own in (Path("/run/appliance"), Path("/var/lib/appliance")):  # what this machine's real labs and sites keep
        if own.is_dir():
            mount("tmpfs", own, "tmpfs", options="mode=0755")
    return layers / "upper"


def _written(upper: Path, world: Path) -> Iterator[str]:
    """What was changed, and all that is below the world's directory for other file systems, which the overlay does not see."""
    for base, below in ((upper, upper), (world, world / ELSEWHERE)):
        for path in below.rglob("*"):
            yield str(path.relative_to(base)).encode("utf-8", "backslashreplace").decode()


def _command(case: Case) -> None:
    """What the interpreter does around the command line, in a process whose modules are loaded already."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 1 << 16)
    crash = os.dup(2)
    os.dup2(crash, 999)
    os.close(crash)
    os.environ.clear()
    os.environ.update(case.environment)
    tempfile.tempdir = None
    code = CRASHED
    try:
        case.enter()
        streams(STREAMS)
        main(list(case.argv))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        os.write(999, traceback.format_exc().encode())
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        os.write(999, f"Exception ignored in: stdout: {error!r}\n".encode())
        code = UNFLUSHED
    os._exit(code)


def streams(encoding: str, errors: str = "strict") -> None:
    """The standard streams as an interpreter makes them at its start: None where the descriptor is closed."""
    for name, number, handling in (("stdin", 0, errors), ("stdout", 1, errors), ("stderr", 2, "backslashreplace")):
        stream = None
        try:
            os.fstat(number)
        except OSError:
            pass
        else:
            raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
            buffered = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
            stream = io.TextIOWrapper(buffered, encoding=encoding, errors=handling, line_buffering=number == 2)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
