"""Room for the release, file system by file system, and a disk that is fast enough for models."""

from __future__ import annotations

from collections.abc import Iterator

from engine.fetch import HEADROOM
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, warn
from engine.preflight.facts import Facts, Space

FEW_INODES = 50_000  # a CUDA runtime unpacks to about 30 000 files
SLOW_SYNC_MS = 100.0  # a journal that waits longer makes every restart and every log line wait
SLOW_READ = 500e6  # bytes a second: 140 GB of weights take almost five minutes


def room(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """What all paths on one file system need together is free there."""
    if not (here := facts.storage):
        return
    by_path = {space.path: space for space in here.spaces}
    groups: dict[tuple[str, str], list[tuple[Space, int, str]]] = {}
    for need in want.spaces:
        if space := by_path.get(need.path):
            groups.setdefault((space.device, space.mount), []).append((space, need.n_bytes, need.what))
        else:
            yield fail("space", f"the node says nothing of {need.path}", "Look at df on the node.")
    for needs in groups.values():
        space = needs[0][0]
        total = sum(n for _, n, _ in needs)
        parts = ", ".join(f"{what} {_gb(n)}" for _, n, what in needs)
        if space.read_only:
            yield fail(
                "space",
                f"{space.mount} is mounted read-only",
                f"Mount it read-write: mount -o remount,rw {space.mount}; look at dmesg when the kernel did this.",
            )
        elif space.free_bytes < total + HEADROOM:
            yield fail(
                "space", f"{space.mount} has {_gb(space.free_bytes)} free; {_gb(total)} are needed ({parts}), with {_gb(HEADROOM)} to be left",
                f"Free {_gb(total + HEADROOM - space.free_bytes)} on {space.mount}, or mount a larger disk there.",
            )  # fmt: skip
        elif 0 < space.free_inodes < FEW_INODES:
            yield fail(
                "space",
                f"{space.mount} has only {space.free_inodes} inodes free",
                "Remove small files there, or make the file system with more inodes.",
            )
        else:
            yield good("space", f"{space.mount}: {_gb(total)} needed ({parts}), {_gb(space.free_bytes)} free")


def speed(facts: Facts, _: Expectation) -> Iterator[Finding]:
    """Latency of fsync and rate of reading where models will be."""
    disk = facts.storage.disk if facts.storage else None
    if not disk:
        return
    if disk.fsync_p99_ms is None or disk.fsync_p50_ms is None:
        yield warn(
            "disk-sync", f"{disk.directory} was not measured: {disk.note}", "Measure it by hand where it matters."
        )
        return
    says = f"fsync below {disk.directory} takes {disk.fsync_p50_ms:.1f} ms (median), {disk.fsync_p99_ms:.1f} ms (99 of 100)"
    if disk.fsync_p99_ms > SLOW_SYNC_MS:
        yield warn(
            "disk-sync", says, "Look for a failing disk (dmesg, smartctl), or use one with power-loss protection."
        )
    else:
        yield good("disk-sync", says)
    if disk.read_bytes_per_s is None:
        yield warn("disk-read", f"{disk.directory}: {disk.note}", "Free space, then ask again.")
    elif disk.read_bytes_per_s < SLOW_READ:
        yield warn(
            "disk-read", f"{disk.directory} reads {disk.read_bytes_per_s / 1e6:.0f} MB/s; 140 GB of weights would take {140e9 / max(disk.read_bytes_per_s, 1.0) / 60:.0f} minutes to load",
            "Put /var/lib/appliance on a local NVMe disk.",
        )  # fmt: skip
    else:
        yield good(
            "disk-read",
            f"{disk.directory} reads {disk.read_bytes_per_s / 1e6:.0f} MB/s{'; ' + disk.note if disk.note else ''}",
        )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


RULES: tuple[Rule, ...] = (room, speed)
