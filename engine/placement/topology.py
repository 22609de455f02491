"""What a node has, from NVML's answers and the kernel's tables. Reads small files of /sys; everything else is pure."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import nvml
from engine.placement.model import UNKNOWN, Gpu, Node
from engine.preflight import reading

COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
MAX_NODES = 1024  # of NUMA; the kernel's own limit


def node(told: nvml.Nvml, sys: Path = Path("/sys")) -> Node:
    """This node: GPUs that NVML knows, with the NUMA node that the kernel says each is attached to, and CPUs."""
    numa = {g.bus: _numa(sys, g.bus) for g in told.gpus if g.bus}
    return Node(gpus(told.gpus, numa), cpus(sys))


def gpus(told: Sequence[nvml.Gpu], numa: Mapping[str, int]) -> tuple[Gpu, ...]:
    """GPUs that can be given to a service: one that is lost has no UUID, and one that MIG divides is given out in slices. Pure.

    Args:
        numa: NUMA nodes by address on the bus, as NVML writes addresses.
    """
    domain = domains(told)
    return tuple(
        Gpu(g.uuid, g.index, UNKNOWN if g.minor is None else g.minor, numa.get(g.bus or "", UNKNOWN), domain[g.index])
        for g in told
        if g.uuid and not (g.mig_mode and g.mig_mode[0])
    )


def domains(told: Sequence[nvml.Gpu]) -> dict[int, int]:
    """The NVLink domain of every GPU, by index: the lowest index in it. Pure.

    GPUs share one when a link leads from one to the other or from both to one switch, or when both are registered with the board's
    fabric, whose switches some systems do not show on the bus.
    """
    meet: dict[str, list[int]] = defaultdict(list)
    for gpu in told:
        ends = {*gpu.link_ends, gpu.bus or f"gpu {gpu.index}"}
        if gpu.fabric and gpu.fabric.state == COMPLETED:
            ends.add("fabric")
        for end in ends:
            meet[end].append(gpu.index)
    root = {g.index: g.index for g in told}

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    for met in meet.values():
        for other in met[1:]:
            low, high = sorted((find(met[0]), find(other)))
            root[high] = low
    return {index: find(index) for index in root}


def cpus(sys: Path = Path("/sys")) -> dict[int, tuple[int, ...]]:
    """CPUs that this process may use, by NUMA node; threads of one core stand side by side."""
    allowed = os.sched_getaffinity(0)
    base = sys / "devices/system"
    found: dict[int, tuple[int, ...]] = {}
    for folder in sorted((base / "node").glob("node[0-9]*"))[:MAX_NODES]:
        known = [c for c in listed(reading.text(folder / "cpulist")) if c in allowed]
        if known:
            found[int(folder.name[4:])] = _by_core(base, known)
    return found or {0: _by_core(base, sorted(allowed))}


def listed(text: str) -> list[int]:
    """Numbers of a list as the kernel prints it: ``0-3,8`` is 0, 1, 2, 3, 8. What is not one is left out. Pure."""
    numbers: list[int] = []
    for part in text.split(","):
        if found := re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part):
            numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return numbers


def _by_core(base: Path, known: Sequence[int]) -> tuple[int, ...]:
    def core(cpu: int) -> tuple[int, int]:
        siblings = listed(reading.text(base / f"cpu/cpu{cpu}/topology/thread_siblings_list"))
        return min(siblings, default=cpu), cpu

    return tuple(sorted(known, key=core))


def _numa(sys: Path, bus: str) -> int:
    """NVML writes the domain of an address with eight digits and the kernel with four."""
    match = re.fullmatch(r"[0-9A-Fa-f]{0,4}([0-9A-Fa-f]{4}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", bus)
    return (
        reading.number(sys / "bus/pci/devices" / match[1].lower() / "numa_node", missing=UNKNOWN) if match else UNKNOWN
    )
