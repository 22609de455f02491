"""Where a rehearsal takes place: its directory on this host, room for it, and an end in order."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine import durable
from engine.errors import ApplianceError, ResourceError
from engine.report import Report
from installer.lab import state
from installer.lab.lab import down, sweep

WORK = Path("/var/lib/appliance/rehearsal")  # beside the lab's disks: a rehearsal writes as much as a site
UNPACKED = 3  # times its content that a node needs beside the content itself


@contextmanager
def place(name: str, *, keep: bool) -> Iterator[Path]:
    """A directory for depot, keys and records; those of rehearsals that were killed go first."""
    with suppress(ApplianceError):  # a lab that cannot be removed is not in the way of this one
        sweep()
    WORK.mkdir(mode=0o711, parents=True, exist_ok=True)
    for left in WORK.iterdir():
        if not state.recorded(left.name) and not busy(left):
            shutil.rmtree(left, ignore_errors=True)
    work = WORK / name
    work.mkdir(mode=0o711)  # the depot's web server passes through; what is secret below has its own mode
    durable.write(work / "maker", json.dumps(_me()))
    try:
        yield work
    finally:
        if not keep or not state.recorded(name):
            shutil.rmtree(work, ignore_errors=True)


def _me() -> list[int]:
    process = state.process(os.getpid())
    return [process.pid, process.started] if process else []


def busy(work: Path) -> bool:
    """Whether the process that made it still runs: its lab may not be on record yet."""
    try:
        return state.Process(*json.loads((work / "maker").read_text())).alive()
    except (OSError, ValueError, TypeError):
        return False


def require_space(work: Path, size: int, nodes: int) -> None:
    """The depot takes the bundle of ``size`` bytes once, and every node its content and what that unpacks to.

    Raises:
        ResourceError: with the number of bytes that are missing.
    """
    need = size * (1 + (1 + UNPACKED) * nodes)
    free = shutil.disk_usage(work).free
    if free < need:
        raise ResourceError(
            f"{need - free} bytes too few are free for {nodes} nodes",
            where=str(work),
            remedy="Free space there, or rehearse with fewer nodes.",
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Not to be interrupted: a second Ctrl-C would leave nodes behind."""
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_down(name: str, report: Report) -> None:
    """Remove the nodes, whoever presses Ctrl-C."""
    with undisturbed():
        down(name, report=report)
