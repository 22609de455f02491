"""One control group for each node, in every hierarchy: two systemds must not manage the same groups.

They lie below the caller's own groups, so that limits on the caller hold for its nodes as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


def plan(bridge: str) -> tuple[str, ...]:
    """Directories for the lab with this bridge name: one below this process's group in each mounted hierarchy."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = before.split()[3:5]
            for controller in [""] if kind == "cgroup2" else options.split(","):
                mounts[controller] = (root, point)
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        mount = mounts.get(controllers.split(",")[0])
        if mount:
            root, point = mount
            inside = group.removeprefix(root) if root != "/" else group
            found.append(str(Path(point) / inside.strip("/") / bridge))
    return tuple(dict.fromkeys(found))


def make(roots: Iterable[str], machine: str) -> list[str]:
    """Make the groups of one node; return their directories."""
    made = []
    for root in roots:
        for directory in (Path(root), Path(root) / machine):
            directory.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 refuses processes while these are empty
                if (directory / setting).exists() and not (directory / setting).read_text().strip():
                    (directory / setting).write_text((directory.parent / setting).read_text())
        made.append(str(Path(root) / machine))
    return made


def pids(roots: Iterable[str]) -> set[int]:
    """Processes in the groups, as this process sees them."""
    found: set[int] = set()
    for root in roots:
        for file in Path(root).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(p) for p in file.read_text().split() if p != "0")
    return found


def remove(roots: Iterable[str]) -> bool:
    """Remove the groups bottom up; False while one is still busy."""
    gone = True
    for root in roots:
        top = Path(root)
        groups = sorted((d for d in top.rglob("*") if d.is_dir()), key=lambda d: len(d.parts), reverse=True)
        for directory in [*groups, top]:
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
    return gone
