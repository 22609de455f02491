"""SIGKILL at a chosen step of a command: the steps are what it does to the file system, so that no clock decides where a kill lands.

A child process runs the command; an audit hook counts what changes the file system and kills the child, with all that it started, at the
nth such event. Bytes already written survive, as they do when a process is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

CHANGES = {
    "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink", "os.utime"
}  # fmt: skip
LIMIT = 100_000  # events; a command that needs more is not what these tests were made for


def killed_at(step: int, command: Callable[[], object]) -> bool:
    """Run ``command`` in a child that is killed at its nth change of the file system; False when it came through."""
    return _run(step, command)[0]


def steps_of(command: Callable[[], object]) -> int:
    """How often ``command`` changes the file system when nobody kills it. With threads some more or less from run to run."""
    return _run(LIMIT, command)[1]


def _run(step: int, command: Callable[[], object]) -> tuple[bool, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        seen = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                seen += 1
                if seen == step:
                    os.killpg(0, signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            command()
            os.write(writer, str(seen).encode())
            os._exit(0)
        except BaseException as error:
            os.write(2, f"the command failed by itself: {error!r}\n".encode())
            os._exit(1)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    told = os.read(reader, 100)
    os.close(reader)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the command failed by itself"
    return os.WIFSIGNALED(status), int(told or step)
