"""Run a process that is not trusted to end, or to keep its answer short."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from engine import interruption
from engine.errors import ResourceError

PIECE = 1 << 16  # bytes given or taken at once; what a pipe holds


@dataclass(frozen=True)
class Talk:
    """What the process said.

    Attributes:
        code: how it exited; None when it was cut.
        lines: its lines with the time each arrived, in seconds since 1970.
        cut: why it was ended before it did itself: ``time``, ``output`` or empty.
    """

    code: int | None
    lines: tuple[tuple[float, bytes], ...]
    stderr: str
    cut: str


@dataclass
class _Heard:
    """What came so far. ``rest`` is a line that has not ended."""

    lines: list[tuple[float, bytes]] = field(default_factory=list)
    rest: bytes = b""
    stderr: bytes = b""
    n_bytes: int = 0

    def take(self, name: str, piece: bytes) -> None:
        self.n_bytes += len(piece)
        if name == "stderr":
            self.stderr += piece
            return
        *whole, self.rest = (self.rest + piece).split(b"\n")
        self.lines += [(time.time(), line) for line in whole]


def talk(argv: Sequence[str], *, stdin: bytes, timeout_s: float, limit_bytes: int) -> Talk:
    """Give ``stdin`` to a process and take at most ``limit_bytes`` of its outputs, within ``timeout_s`` seconds.

    Raises:
        ResourceError: the tool is not installed.
    """
    if shutil.which(argv[0]) is None:
        raise ResourceError(f"{argv[0]} is not installed", remedy=f"Install it: apt-get install {argv[0]}")
    heard, pipe = _Heard(), subprocess.PIPE
    with subprocess.Popen(list(argv), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as child:
        try:
            cut = _converse(child, stdin, heard, time.monotonic() + timeout_s, limit_bytes)
        except BaseException:
            _kill(child)  # in a session of its own, it hears nothing of what ends this command
            raise
        if cut:
            _kill(child)
    return Talk(None if cut else child.returncode, tuple(heard.lines), heard.stderr.decode(errors="replace"), cut)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End it and what it started, for example a proxy."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _converse(child: subprocess.Popen[bytes], stdin: bytes, heard: _Heard, deadline: float, limit_bytes: int) -> str:
    """Write and read in turn until both outputs end; returns why it had to stop before."""
    assert child.stdin and child.stdout and child.stderr  # noqa: S101 - pipes were asked for
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdin, selectors.EVENT_WRITE, "stdin")
        waiting.register(child.stdout, selectors.EVENT_READ, "stdout")
        waiting.register(child.stderr, selectors.EVENT_READ, "stderr")
        while waiting.get_map():
            interruption.stop_if_asked()
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready or time.monotonic() > deadline:
                return "time"  # also for one that never stops to speak
            for key, _ in ready:
                if key.data == "stdin":
                    stdin = stdin[_give(child.stdin, stdin) :]
                    over = not stdin
                else:
                    piece = os.read(key.fd, PIECE)
                    heard.take(key.data, piece)
                    over = not piece
                if over:
                    waiting.unregister(key.fileobj)
                if over and key.data == "stdin":
                    child.stdin.close()
            if heard.n_bytes > limit_bytes:
                return "output"
    return ""


def _give(file: IO[bytes], data: bytes) -> int:
    """How much of it was taken; all of it when nobody reads, for what the process says tells why."""
    try:
        return os.write(file.fileno(), data[:PIECE]) if data else 0
    except BrokenPipeError:
        return len(data)
