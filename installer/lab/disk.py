"""The disk of one node: the shared root below, its own writes on top, and the files that give it an identity."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import ApplianceError
from engine.process import run
from installer.lab.plan import Node
from installer.lab.state import DISK

# A machine of its own has these from its kernel; a container must make them before it can mount an image.
LOOP_DEVICES = """\
[Unit]
Description=Loop devices, as a machine's kernel would make them
DefaultDependencies=no
Before=local-fs-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'mknod -m 0600 /dev/loop-control c 10 237 && for n in $(seq 0 63); do mknod -m 0600 /dev/loop$$n b 7 $$n; done'
"""
NSPAWN = Path("/run/systemd/nspawn")  # systemd-nspawn clears its traces there only when it ends by itself


def root_of(lab: str, node: str) -> Path:
    """Where the root of a node is mounted."""
    return DISK / lab / node / "root"


def prepare(
    lab: str,
    node: Node,
    *,
    lower: Path,
    host_address: str,
    host_address6: str = "",
    public_key: str,
    peers: Sequence[Node],
    environment: Mapping[str, str],
) -> str:
    """Mount the node's disk and write what makes it itself; return its public host key."""
    root = root_of(lab, node.name)
    (DISK / lab).mkdir(mode=0o700, parents=True, exist_ok=True)  # a node may hold set-uid programs of its own
    parts = {d: root.parent / d for d in ("upper", "work", "root")}
    for directory in parts.values():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    layers = f"lowerdir={lower},upperdir={parts['upper']},workdir={parts['work']}"
    run(["mount", "-t", "overlay", f"lab-{node.name}", "-o", layers, root], env=environment)

    _write(root / "etc/hostname", f"{node.name}\n")
    _write(
        root / "etc/hosts",
        "127.0.0.1 localhost\n"
        + "".join(f"{address} {p.name}\n" for p in peers for address in (p.address, p.address6) if address),
    )
    # Not the builder's, which came with the root: there is no name server, and a query ends where it began.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    _write(root / "etc/resolv.conf", "nameserver 127.0.0.1\n")
    _write(root / "etc/machine-id", secrets.token_hex(16) + "\n", 0o444)
    _write(
        root / "etc/systemd/network/10-host0.network",
        network_file(node.address, host_address, node.address6, host_address6),
    )
    wanted = root / "etc/systemd/system/sysinit.target.wants/lab-loop.service"
    wanted.parent.mkdir(parents=True, exist_ok=True)
    _write(root / "etc/systemd/system/lab-loop.service", LOOP_DEVICES)
    wanted.symlink_to("../lab-loop.service")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    _write(root / "root/.ssh/authorized_keys", f"{public_key}\n", 0o600)
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", node.name, "-f", host_key], env=environment)
    return " ".join(host_key.with_suffix(".pub").read_text().split()[:2])


def network_file(address: str, host_address: str, address6: str = "", host_address6: str = "") -> str:
    """The address of a node. The control host is its gateway so that traffic to elsewhere leaves the node and is refused
    where a test can count it, instead of failing inside for want of a route."""
    six = f"""Gateway={host_address6}

[Address]
Address={address6}/64
DuplicateAddressDetection=none
"""
    return f"""\
[Match]
Virtualization=container
Name=host0

[Network]
Address={address}/24
Gateway={host_address}
LinkLocalAddressing=no
IPv6AcceptRA=no
{six if address6 else ""}"""


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def discard(lab: str, machine_prefix: str) -> None:
    """Unmount and delete the disks of all nodes of a lab, and what a killed nspawn kept about them.

    Raises:
        ProcessError: something still uses a disk.
    """
    place = DISK / lab
    for point in mounts_below(place):
        root = point.stat()
        (NSPAWN / f"locks/inode-{root.st_dev}:{root.st_ino}").unlink(missing_ok=True)
        run(["umount", point])
    for left in NSPAWN.glob(f"propagate/{machine_prefix}-*"):
        left.rmdir()
    if mounts_below(place):
        raise ApplianceError("a file system is still mounted", where=str(place), remedy="Unmount it and run again.")
    if place.exists():
        shutil.rmtree(place)


def mounts_below(place: Path) -> list[Path]:
    """Mount points at or below ``place``, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [Path(p) for p in points if Path(p).is_relative_to(place)]
    return sorted(below, key=lambda p: len(p.parts), reverse=True)
