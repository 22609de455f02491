"""One way to run a process."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ApplianceError, ResourceError


class ProcessError(ApplianceError):
    """A process exited with a code that the caller did not allow.

    ``stderr`` holds the last lines it wrote, for callers that recognise a cause.
    """

    def __init__(self, argv: Sequence[str], code: int, stderr: str) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-15:])
        super().__init__(
            f"`{' '.join(argv[:4])}{' …' if len(argv) > 4 else ''}` exited with {code}: {tail or 'no output'}"
        )
        self.code = code
        self.stderr = stderr


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    ok: Sequence[int] = (0,),
    timeout_s: float | None = None,
    package: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` without a shell, capture its output, and raise unless it exits with a code in ``ok``.

    Args:
        env: variables added to this process's environment. Secrets go here or to ``stdin``, never into ``argv``.
        package: what to install when the tool is not there; becomes the remedy.

    Raises:
        ResourceError: the tool is not installed.
        ProcessError: it ran and exited with another code.
        ApplianceError: it did not end within ``timeout_s`` seconds.
    """
    args = [str(a) for a in argv]
    # Tools for administrators are not on the path of every session.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if shutil.which(args[0], path=path) is None:
        raise ResourceError(f"{args[0]} is not installed", remedy=f"Install it: apt-get install {package or args[0]}")
    try:
        done = subprocess.run(
            args,
            cwd=cwd,
            env={**os.environ, "PATH": path, **(env or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ApplianceError(f"`{args[0]}` did not end within {timeout_s:.0f} s") from None
    if done.returncode not in ok:
        raise ProcessError(args, done.returncode, done.stderr or done.stdout)
    return done


@dataclass(frozen=True)
class Talk:
    """What a process that is not trusted said.

    Attributes:
        code: how it exited; None when it was cut.
        lines: its lines with the time each arrived, in seconds since 1970.
        cut: why it was ended before it did itself: ``time``, ``output`` or empty.
    """

    code: int | None
    lines: tuple[tuple[float, bytes], ...]
    stderr: str
    cut: str


def talk(argv: Sequence[str], *, stdin: bytes, timeout_s: float, limit_bytes: int) -> Talk:
    """Give ``stdin`` to a process and take at most ``limit_bytes`` from each of its outputs, within ``timeout_s`` seconds.

    Raises:
        ResourceError: the tool is not installed.
    """
    if shutil.which(argv[0]) is None:
        raise ResourceError(f"{argv[0]} is not installed", remedy=f"Install it: apt-get install {argv[0]}")
    outputs: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    lines: list[tuple[float, bytes]] = []
    cut, sent, deadline = "", 0, time.monotonic() + timeout_s
    with (
        subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as child,
        selectors.DefaultSelector() as waiting,
    ):
        assert child.stdin and child.stdout and child.stderr  # noqa: S101 - pipes were asked for
        os.set_blocking(child.stdin.fileno(), False)
        waiting.register(child.stdin, selectors.EVENT_WRITE, "stdin")
        waiting.register(child.stdout, selectors.EVENT_READ, "stdout")
        waiting.register(child.stderr, selectors.EVENT_READ, "stderr")
        while waiting.get_map() and not cut:
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready or time.monotonic() > deadline:
                cut = "time"  # also for a process that never stops to speak
            for key, _ in ready:
                if key.data == "stdin":
                    try:
                        sent += os.write(key.fd, stdin[sent : sent + (1 << 16)])
                    except BrokenPipeError:
                        sent = len(stdin)  # it reads no more; what it says tells why
                    if sent >= len(stdin):
                        waiting.unregister(key.fileobj)
                        child.stdin.close()
                    continue
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    waiting.unregister(key.fileobj)
                held = outputs[key.data]
                held += chunk
                if key.data == "stdout":
                    *whole, rest = bytes(held).split(b"\n")
                    lines += [(time.time(), line) for line in whole]
                    limit_bytes -= sum(len(line) + 1 for line in whole)
                    outputs["stdout"] = bytearray(rest)
                if len(outputs[key.data]) > limit_bytes or limit_bytes < 0:
                    cut = "output"
        if cut:
            os.killpg(child.pid, signal.SIGKILL)  # a proxy that it started goes, too
    return Talk(None if cut else child.returncode, tuple(lines), outputs["stderr"].decode(errors="replace"), cut)
