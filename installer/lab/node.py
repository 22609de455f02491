"""One node as a process: its start, the moment it answers, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.errors import ApplianceError, NodeError
from engine.process import run
from installer.lab.disk import root_of
from installer.lab.plan import Bind, Node
from installer.lab.state import DISK, Process, process

READY_S = 120.0
_children: dict[int, subprocess.Popen[bytes]] = {}  # nodes this process started, to be reaped when they end


def start(
    lab: str,
    node: Node,
    *,
    machine: str,
    bridge: str,
    binds: Iterable[Bind],
    cgroups: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    sightings: Path | None = None,
) -> Process:
    """Boot the node in its own session; its console goes to ``log``, what it tries to reach to ``sightings`` if that is given."""
    nspawn = [
        "systemd-nspawn", "--quiet", f"--directory={root_of(lab, node.name)}", f"--machine={machine}", f"--hostname={node.name}",
        "--boot", f"--network-bridge={bridge}", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off",
        "--link-journal=no", "--console=pipe", *(f"--bind-ro={b.source}:{b.target}" for b in binds),
    ]  # fmt: skip
    watcher: list[str | Path] = (
        [sys.executable, "-I", "-m", "installer.lab.watch", sightings, "--"] if sightings else []
    )
    with log.open("ab") as out:
        child = subprocess.Popen(
            [*watcher, sys.executable, "-I", "-S", Path(__file__).with_name("enter.py"), *cgroups, "--", *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
            env={**os.environ, **environment},
        )
    _children[child.pid] = child
    return process(child.pid) or Process(child.pid, 0)


def wait_ready(node: Node, started: Process, ssh: Sequence[str], *, environment: Mapping[str, str], log: Path) -> str:
    """Wait until the node has booted and answers over SSH; return systemd's word for its state.

    Raises:
        NodeError: it ended, or did not answer within READY_S seconds.
    """
    deadline = time.monotonic() + READY_S
    answer = ""
    while time.monotonic() < deadline:
        if not started.alive():
            raise _failed(node, "ended while it booted", log)
        with contextlib.suppress(ApplianceError):
            done = run([*ssh, "systemctl is-system-running --wait"], ok=(0, 1, 255), env=environment, timeout_s=READY_S)
            answer = done.stdout.strip() or done.stderr.strip()
            if answer in ("running", "degraded"):
                return answer
        time.sleep(0.1)
    raise _failed(node, f"did not answer within {READY_S:.0f} s ({answer or 'no answer'})", log)


def _failed(node: Node, what: str, log: Path) -> NodeError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
    return NodeError(f"the node {what}; its console said: {tail or 'nothing'}", where=node.name)


def processes(lab: str, environment: Mapping[str, str]) -> set[int]:
    """Processes of a lab: what boots one of its disks, and what carries its variables (a killed maker's tools)."""
    marks = {f"{k}={v}".encode() for k, v in environment.items()}
    disks = f"--directory={DISK / lab}/".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                boots = b"systemd-nspawn" in arguments and any(a.startswith(disks) for a in arguments)
                if boots or (marks and marks <= set((entry / "environ").read_bytes().split(b"\0"))):
                    found.add(int(entry.name))
    return found


def kill(pids: Iterable[int]) -> None:
    """End processes at once. Nodes are thrown away: a clean shutdown would save nothing."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in [p for p, child in _children.items() if child.poll() is not None]:
        del _children[pid]
