"""One node: its disk, its identity, its start, and the moment it answers."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.errors import ApplianceError, NodeError
from engine.process import run
from installer.lab.plan import Bind, Node
from installer.lab.state import DISK, Process, process

READY_S = 120.0
_children: dict[int, subprocess.Popen[bytes]] = {}  # nodes this process started, to be reaped when they end


def root_of(lab: str, node: str) -> Path:
    """Where the root of a node is mounted."""
    return DISK / lab / node / "root"


def prepare(lab: str, node: Node, *, lower: Path, host_address: str, public_key: str, peers: Sequence[Node]) -> str:
    """Mount the node's disk and write what makes it itself; return its public host key."""
    root = root_of(lab, node.name)
    parts = {d: root.parent / d for d in ("upper", "work", "root")}
    for directory in parts.values():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    layers = f"lowerdir={lower},upperdir={parts['upper']},workdir={parts['work']}"
    run(["mount", "-t", "overlay", f"lab-{node.name}", "-o", layers, root])

    _write(root / "etc/hostname", f"{node.name}\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{p.address} {p.name}\n" for p in peers))
    _write(root / "etc/machine-id", secrets.token_hex(16) + "\n", 0o444)
    _write(root / "etc/systemd/network/10-host0.network", network_file(node.address, host_address))
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _write(root / "root/.ssh/authorized_keys", f"{public_key}\n", 0o600)
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", node.name, "-f", host_key], package="openssh-client")
    return " ".join(host_key.with_suffix(".pub").read_text().split()[:2])


def network_file(address: str, host_address: str) -> str:
    """The address of a node. The control host is its gateway so that traffic to elsewhere leaves the node and is refused
    where a test can count it, instead of failing inside for want of a route."""
    return f"""\
[Match]
Virtualization=container
Name=host0

[Network]
Address={address}/24
Gateway={host_address}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def start(
    lab: str, node: Node, *, machine: str, bridge: str, binds: Iterable[Bind], cgroups: Sequence[str], log: Path
) -> Process:
    """Boot the node in its own session; its console goes to ``log``."""
    nspawn = [
        "systemd-nspawn", "--quiet", directory_argument(lab, node.name), f"--machine={machine}", f"--hostname={node.name}",
        "--boot", f"--network-bridge={bridge}", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off",
        "--link-journal=no", "--console=pipe", *(f"--bind-ro={b.source}:{b.target}" for b in binds),
    ]  # fmt: skip
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("enter.py"), *cgroups, "--", *nspawn],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
        )
    _children[child.pid] = child
    return process(child.pid) or Process(child.pid, 0)


def directory_argument(lab: str, node: str) -> str:
    """The argument by which a node's process is recognised."""
    return f"--directory={root_of(lab, node)}"


def wait_ready(node: Node, started: Process, ssh: Sequence[str], log: Path) -> str:
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
            done = run([*ssh, "systemctl is-system-running --wait"], ok=(0, 1, 255), timeout_s=READY_S)
            answer = done.stdout.strip() or done.stderr.strip()
            if answer in ("running", "degraded"):
                return answer
        time.sleep(0.1)
    raise _failed(node, f"did not answer within {READY_S:.0f} s ({answer or 'no answer'})", log)


def _failed(node: Node, what: str, log: Path) -> NodeError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
    return NodeError(f"the node {what}; its console said: {tail or 'nothing'}", where=node.name)


def processes(lab: str) -> set[int]:
    """Processes whose command line names a root of this lab: nspawn, and what is about to become it."""
    prefix = f"--directory={DISK / lab}/".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(a.startswith(prefix) for a in arguments) and any(b"systemd-nspawn" in a for a in arguments):
                    found.add(int(entry.name))
    return found


def kill(pids: Iterable[int]) -> None:
    """End processes at once. Nodes are thrown away: a clean shutdown would save nothing."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in [p for p, child in _children.items() if child.poll() is not None]:
        del _children[pid]


def discard(lab: str) -> None:
    """Unmount and delete the disks of all nodes of a lab.

    Raises:
        ProcessError: something still uses a disk.
    """
    place = DISK / lab
    for point in mounts_below(place):
        run(["umount", point])
    if mounts_below(place):
        raise ApplianceError("a file system is still mounted", where=str(place), remedy="Unmount it and run again.")
    shutil.rmtree(place, ignore_errors=False) if place.exists() else None


def mounts_below(place: Path) -> list[Path]:
    """Mount points at or below ``place``, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [Path(p) for p in points if Path(p).is_relative_to(place)]
    return sorted(below, key=lambda p: len(p.parts), reverse=True)
