"""A signal ends a command in order: SIGTERM and SIGHUP as Ctrl-C does.

Ctrl-C reaches a command and the processes it started, for a terminal tells all of them; SIGTERM and SIGHUP reach the command alone. So
the handler hands the signal on, and raises KeyboardInterrupt: what cleans up after Ctrl-C cleans up after every signal. Threads ask
``stop_if_asked`` between pieces of work. What is ignored stays so: an operator said nohup.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which another signal is not heeded: a terminal that closes sends SIGHUP twice, and the second must not stop the cleaning up.
SETTLING_S = 10.0
PATIENCE_S = 2.0  # seconds that a process has to end before it is killed


class InterruptedWork(KeyboardInterrupt):
    """Raised in a thread that is to stop because a signal ended the command."""


@dataclass
class _State:
    number: int = 0  # of the first signal; 0 for none
    at: float = 0.0
    left: dict[int, int] = field(default_factory=dict)  # processes started so far: number, and when it began


_state = _State()


def received() -> int:
    """Number of the signal that ends this command; 0 when there was none."""
    return _state.number


def note(number: int) -> None:
    """Remember a signal that a handler of its own has taken."""
    if not _state.number:
        _state.number, _state.at = number, time.monotonic()


def stop_if_asked() -> None:
    """Stop the work of a thread when a signal has ended the command.

    Raises:
        InterruptedWork: it has. Never in the main thread, which cleans up.
    """
    if _state.number and threading.current_thread() is not threading.main_thread():
        raise InterruptedWork


@contextmanager
def heeded() -> Iterator[None]:
    """Signals raise KeyboardInterrupt in the main thread while the block runs; at its end no process of this group is left."""
    global _state  # noqa: PLW0603  signals belong to the process
    _state = _State()
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may set handlers
        return
    numbers = [n for n in SIGNALS if signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler)]
    before = {number: signal.signal(number, _handle) for number in numbers}
    try:
        yield
    finally:
        if _state.number:
            _end_children()
        for number, handler in before.items():
            signal.signal(number, handler)
        _state = _State()


def _handle(number: int, _frame: object) -> None:
    repeated = number != signal.SIGINT and _state.number and time.monotonic() - _state.at < SETTLING_S
    if repeated:
        return
    note(number)
    _state.left |= _started()
    if number != signal.SIGINT:
        for pid in _state.left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
    raise KeyboardInterrupt


def _end_children() -> None:
    """End what the cleaning up has left of the processes that were started."""
    left = _state.left | _started()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE_S  # a killed process, too, needs a moment to be gone
        for pid in _alive(left):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        while _alive(left) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not _alive(left):
            return


def _alive(processes: dict[int, int]) -> list[int]:
    """Those that have not ended; another process may have got the number since."""
    return [p for p, began in processes.items() if (found := _stat(p)) and found[0] != "Z" and found[3] == began]


def _started() -> dict[int, int]:
    """Every process below this one that is in its process group, as the terminal would tell them. Those in sessions of their own (nodes of
    a lab, Ansible) belong to whoever started them, and are ended there."""
    told = {int(p.name): s for p in Path("/proc").glob("[0-9]*") if (s := _stat(int(p.name)))}
    children: dict[int, list[int]] = {}
    for pid, (_, parent, _, _) in told.items():
        children.setdefault(parent, []).append(pid)
    found, waiting, group = {}, [os.getpid()], os.getpgrp()
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            waiting.append(pid)
            if told[pid][2] == group:
                found[pid] = told[pid][3]
    return found


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, process group and begin of a process; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[19])
