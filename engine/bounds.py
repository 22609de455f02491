"""What a tool that reads a stranger's bytes may use: memory, length of a file, disk, time, and what it says.

The kernel keeps memory and the length of files (setrlimit(2)), for each process that the tool starts. Disk and time are watched from here,
and the tool with all that it started is ended when it goes beyond.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from engine import interruption
from engine.errors import ResourceError

LEFT_FREE = 256 << 20  # bytes of a file system that a tool may not take: the system and its logs need some
LOOK_S = 0.1  # seconds between looks at the directory, and more where it takes long to look
PIECE = 1 << 16
OUTPUT = 64 << 20  # bytes that a tool may say
TOOLS = ("prlimit", "setpriv")  # of util-linux
Which = Literal["memory", "file", "disk", "space", "time", "output"]
# How tools say that they got no more memory: uv, skopeo, Python, C programs.
NO_MEMORY = re.compile(
    r"memory allocation of \d+ bytes failed|out of memory|annot allocate memory|MemoryError|Memory usage limit"
)
TOO_LONG = re.compile(r"File too large|file too large")


@dataclass(frozen=True)
class Bounds:
    """Limits of one child process and all that it starts. What is None is not limited.

    Attributes:
        memory: bytes of private memory of each process (``RLIMIT_DATA``; address space that is only reserved does not count).
        file: bytes of the longest file that it may write.
        directory: where it writes; watched, links not followed, several names of one file counted once.
        disk: bytes that may lie below ``directory``.
        time_s: seconds.
        output: bytes of standard output and error together.
    """

    memory: int | None = None
    file: int | None = None
    directory: Path | None = None
    disk: int | None = None
    time_s: float | None = None
    output: int = OUTPUT


class BoundsError(ResourceError):
    """A tool went beyond its bounds and was ended.

    ``which`` says beyond which one, ``limit`` is that bound in bytes or seconds, ``stderr`` what the tool had said.
    """

    def __init__(self, tool: str, which: Which, limit: float, *, where: str = "", stderr: str = "") -> None:
        what = {
            "memory": f"`{tool}` needed more than {limit:,.0f} bytes of memory",
            "file": f"`{tool}` wrote a file of more than {limit:,.0f} bytes",
            "disk": f"`{tool}` wrote more than {limit:,.0f} bytes",
            "space": f"`{tool}` left less than {limit:,.0f} bytes free",
            "time": f"`{tool}` did not end within {limit:,.0f} s",
            "output": f"`{tool}` said more than {limit:,.0f} bytes",
        }[which]
        remedy = {"space": "Free space there and run the same command again."}.get(
            which,
            "It was ended. One of the files that it reads is not what it should be: get them again from a sound source.",
        )
        super().__init__(what, where=where, remedy=remedy)
        self.which = which
        self.limit = limit
        self.stderr = stderr


@dataclass(frozen=True)
class Ended:
    """How the tool ended; what it said, as text."""

    code: int
    stdout: str
    stderr: str


def call(
    argv: Sequence[str], env: Mapping[str, str], bounds: Bounds, *, cwd: str | Path | None, stdin: str | None
) -> Ended:
    """Run ``argv``, which must be installed, within ``bounds``.

    Raises:
        BoundsError: it went beyond, and was ended with all that it started.
        OSError: it cannot be started.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*_limited(bounds), *argv], env=dict(env), cwd=cwd, stdout=pipe, stderr=pipe,
        stdin=subprocess.DEVNULL if stdin is None else pipe, start_new_session=True,
    )  # fmt: skip
    said = _Said(process, stdin, bounds.output)
    try:
        beyond = _watch(process, said, bounds)
    finally:
        # What it left running goes, too, and whatever ended the wait.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said.end()
    stdout, stderr = said.text("stdout"), said.text("stderr")
    beyond = beyond or _reason(process.returncode, stderr, bounds)
    if beyond:
        limit = {"memory": bounds.memory, "file": bounds.file, "disk": bounds.disk, "space": LEFT_FREE,
                 "time": bounds.time_s, "output": bounds.output}[beyond]  # fmt: skip
        raise BoundsError(Path(argv[0]).name, beyond, limit or 0, where=str(bounds.directory or ""), stderr=stderr)
    return Ended(process.returncode, stdout, stderr)


def used(directory: Path) -> int:
    """Bytes of disk that files below ``directory`` take. Links are not followed; a file with several names counts once."""
    total, waiting, seen = 0, [os.fspath(directory)], set()
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # gone, or it was a file
        for entry in entries:
            with suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif about.st_nlink == 1 or (about.st_dev, about.st_ino) not in seen:
                    if about.st_nlink > 1:
                        seen.add((about.st_dev, about.st_ino))
                    total += about.st_blocks * 512
    return total


def _limited(bounds: Bounds) -> list[str]:
    """prlimit rather than code between fork and exec, which is not safe where threads run; setpriv ends the tool with this process."""
    limits = ["--core=0"]
    limits += [f"--data={bounds.memory}"] if bounds.memory else []
    limits += [f"--fsize={bounds.file}"] if bounds.file else []
    return ["prlimit", *limits, "--", "setpriv", "--pdeathsig", "KILL", "--"]


def _watch(process: subprocess.Popen[bytes], said: _Said, bounds: Bounds) -> Which | None:
    """Wait for the end, without reaping it, so that its group keeps its number; returns the bound that it went beyond."""
    deadline = None if bounds.time_s is None else time.monotonic() + bounds.time_s
    pause, ending = LOOK_S, select.poll()
    pid = os.pidfd_open(process.pid)
    try:
        ending.register(pid, select.POLLIN)
        while True:
            interruption.stop_if_asked()
            wait_s = pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic()))
            ended = bool(ending.poll(1000 * wait_s))
            if said.over:
                return "output"
            if bounds.directory is not None:
                begin = time.monotonic()
                if bounds.disk is not None and used(bounds.directory) > bounds.disk:
                    return "disk"  # also when it has ended by itself: then it was faster than a look
                if not ended and _free(bounds.directory) < LEFT_FREE:
                    return "space"
                pause = max(LOOK_S, 5 * (time.monotonic() - begin))
            if ended:
                return None
            if deadline is not None and time.monotonic() > deadline:
                return "time"
    finally:
        os.close(pid)


def _free(directory: Path) -> int:
    about = os.statvfs(directory)
    return about.f_bavail * about.f_frsize


def _reason(code: int, stderr: str, bounds: Bounds) -> Which | None:
    if code and bounds.file and (code in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ) or TOO_LONG.search(stderr)):
        return "file"
    if code and bounds.memory and NO_MEMORY.search(stderr):
        return "memory"
    return None


class _Said:
    """Takes both outputs as they come, no more than ``limit`` bytes, and gives the input."""

    def __init__(self, process: subprocess.Popen[bytes], stdin: str | None, limit: int) -> None:
        self.over = False
        self._process = process
        self._limit = limit
        self._lock = threading.Lock()
        self._parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._n_bytes = 0
        assert process.stdout and process.stderr  # noqa: S101 - pipes were asked for
        jobs: list[tuple[object, tuple[object, ...]]] = [
            (self._take, ("stdout", process.stdout)), (self._take, ("stderr", process.stderr)),
        ]  # fmt: skip
        if process.stdin is not None:
            jobs.append((self._give, (process.stdin, (stdin or "").encode())))
        self._threads = [threading.Thread(target=job, args=args, daemon=True) for job, args in jobs]  # type: ignore[arg-type]
        for thread in self._threads:
            thread.start()

    def text(self, name: str) -> str:
        return b"".join(self._parts[name]).decode(errors="replace")

    def end(self) -> None:
        """Wait for the rest; every writer has been ended."""
        for thread in self._threads:
            thread.join(5)
        for pipe in (self._process.stdout, self._process.stderr, self._process.stdin):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _take(self, name: str, pipe: IO[bytes]) -> None:
        while piece := os.read(pipe.fileno(), PIECE):
            with self._lock:
                self._n_bytes += len(piece)
                self.over = self.over or self._n_bytes > self._limit
                if not self.over:
                    self._parts[name].append(piece)

    def _give(self, pipe: IO[bytes], data: bytes) -> None:
        with suppress(OSError):
            pipe.write(data)
        with suppress(OSError):
            pipe.close()
