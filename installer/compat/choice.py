"""What one node's GPUs take: flavour of kernel modules, CUDA's compatibility package, and room for a MIG layout. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.preflight import pci
from installer.compat.facts import branch
from installer.compat.gpu import over
from installer.compat.tables import (
    BEFORE_OPEN,
    BRANCHES,
    CUDA_NEEDS,
    GPUS,
    LAST_BEFORE_OPEN,
    MIG,
    NEEDS_OPEN,
    OPEN_FROM,
    OPEN_ONLY_FROM,
)


@dataclass(frozen=True)
class Choice:
    """``flavour`` is open or proprietary; empty with faults, which are sentences with a remedy."""

    flavour: str
    faults: tuple[str, ...] = ()


def modules(devices: Sequence[int], version: str, asked: str = "auto") -> Choice:
    """The flavour of kernel modules for the GPUs of a node.

    Args:
        devices: PCI device identifiers of NVIDIA's GPUs.
        version: of the driver.
        asked: auto, open or proprietary; auto takes what every GPU of the node can have.
    """
    number = branch(version)
    known = {d: m for d in devices if (m := [GPUS[n] for n in pci.models(d) if n in GPUS])}
    strange = sorted({f"10de:{d:04x}" for d in devices if d not in known})
    architectures = {m[0].architecture for m in known.values()}
    old, new = sorted(architectures & BEFORE_OPEN), sorted(architectures & NEEDS_OPEN)
    faults = []
    if asked == "auto" and not devices:
        faults.append("there is no NVIDIA GPU on the PCI bus to choose kernel modules for: take the node out of the group gpu, or look at its slots.")  # fmt: skip
    if asked == "auto" and strange:
        faults.append(f"{', '.join(strange)} is no GPU that is known here: set gpu_driver.modules to open or proprietary.")  # fmt: skip
    if old and new:
        faults.append(f"GPUs of {', '.join(old)} need proprietary kernel modules, those of {', '.join(new)} open ones: they cannot share a node.")  # fmt: skip
    if old and number > LAST_BEFORE_OPEN:
        faults.append(f"driver {version} no longer drives {', '.join(old)}; branch {LAST_BEFORE_OPEN} was the last: take one of that branch.")  # fmt: skip
    if old and asked == "open":
        faults.append(f"the open kernel modules do not drive {', '.join(old)}: set gpu_driver.modules to proprietary or auto.")  # fmt: skip
    if new and asked == "proprietary":
        faults.append(f"only the open kernel modules drive {', '.join(new)}: set gpu_driver.modules to open or auto.")  # fmt: skip
    if asked == "proprietary" and number >= OPEN_ONLY_FROM:
        faults.append(f"driver {version} has open kernel modules only, since branch {OPEN_ONLY_FROM}: set gpu_driver.modules to open or auto.")  # fmt: skip
    faults += [
        f"{'/'.join(pci.models(d))} needs a driver of branch {m[0].needs_branch} or newer, the site asks for {version}: take a newer one."
        for d, m in sorted(known.items())
        if number < m[0].needs_branch
    ]
    if faults:
        return Choice("", tuple(faults))
    if asked != "auto":
        return Choice(asked)
    return Choice("open" if new or (not old and number >= OPEN_FROM) else "proprietary")


def compat(devices: Sequence[int], driver: str, package: str) -> tuple[str, ...]:
    """Why CUDA's compatibility package of version ``package`` must not stand beside ``driver``; empty when it may.

    It replaces libcuda for programs that ask for it, so that a CUDA newer than the driver's works on data center GPUs.
    Source: CUDA Compatibility guide, "Forward Compatibility".
    """
    here, there = branch(driver), branch(package)
    faults = []
    if _version(driver) >= _version(package):
        faults.append(f"driver {driver} is as new as the compatibility package's {package} or newer, which would put an older libcuda over it: set cuda.compat to an empty list.")  # fmt: skip
    row = BRANCHES.get(here)
    if here < there and (row is None or row.designation not in ("long-term support", "production")):
        faults.append(f"driver {driver} is of branch {here}, which is neither a production nor a long-term support branch; the package supports only those: take a driver of one, or a CUDA that {here} knows.")  # fmt: skip
    if strange := sorted({f"10de:{d:04x}" for d in devices if not pci.models(d)}):
        faults.append(f"{', '.join(strange)} is no data center GPU that is known here, and the package works on those alone: set cuda.compat to an empty list, and take a newer driver.")  # fmt: skip
    return tuple(faults)


def cuda_needs(version: str) -> int:
    """The lowest driver branch for a CUDA version such as ``13.0``; 0 when it is not in the table."""
    return CUDA_NEEDS.get(int(version.split(".", 1)[0]), 0)


def mig(devices: Sequence[int], layout: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """What in a MIG layout the GPUs of a node cannot hold.

    Args:
        devices: PCI device identifiers, in the order of the GPUs' indices.
        layout: groups of ``gpus`` (``all`` or a list of indices) and ``profiles`` (name to number of instances).
    """
    faults: list[str] = []
    seen: set[int] = set()
    for group in layout:
        chosen = list(range(len(devices))) if group["gpus"] == "all" else list(group["gpus"])
        faults += [f"the MIG layout names GPU {i} twice: give every GPU one group." for i in chosen if i in seen]
        seen.update(chosen)
        for index in chosen:
            if index >= len(devices):
                faults.append(f"the MIG layout names GPU {index}, the node has {len(devices)}: correct mig.layout.")
                continue
            if not group["profiles"]:
                continue
            names = pci.models(devices[index])
            row = next((GPUS[n] for n in names if n in GPUS), None)
            told = f"GPU {index} ({'/'.join(names) or f'10de:{devices[index]:04x}'})"
            if row is None or not row.mig:
                faults.append(f"{told} has no MIG profiles: leave it out of mig.layout.")
                continue
            table = MIG[row.mig]
            if strange := sorted(set(group["profiles"]) - set(table.profiles)):
                faults.append(f"{told} has no MIG profile {', '.join(strange)}: it has {', '.join(table.profiles)}.")
            elif much := over(table, Counter(group["profiles"])):
                faults.append(f"{told}: {much}: ask for fewer or smaller instances.")
    return tuple(dict.fromkeys(faults))


def layout(groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What in a MIG layout no GPUs can hold: a GPU in two groups, profiles that no GPU has, or too many of them for every GPU."""
    chosen = [i for group in groups if group["gpus"] != "all" for i in group["gpus"]]
    twice = sorted({i for i in chosen if chosen.count(i) > 1})
    faults = [f"the MIG layout names GPU {i} twice: give every GPU one group." for i in twice]
    if len(groups) > 1 and any(group["gpus"] == "all" for group in groups):
        faults.append(
            "the MIG layout has a group for all GPUs beside others, which names them twice: give every GPU one group."
        )
    for group in groups:
        if not group["profiles"]:
            continue
        fitting = [table for table in MIG.values() if not set(group["profiles"]) - set(table.profiles)]
        named = ", ".join(sorted(group["profiles"]))
        if not fitting:
            faults.append(
                f"no GPU that is known here has the MIG profiles {named}: correct them, docs/gpu-driver.md says which there are."
            )
        elif all(much := [over(table, Counter(group["profiles"])) for table in fitting]):
            faults.append(f"no GPU that is known here holds so many instances of {named}; {much[0]}: ask for fewer or smaller ones.")  # fmt: skip
    return tuple(faults)


def slices(n_gpus: int, layout: Iterable[Mapping[str, Any]], services: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Services whose slice the layout does not make, or that share one.

    Args:
        services: ``name``, ``gpu`` and ``instance``.
    """
    instances: dict[int, int] = {}
    for group in layout:
        for index in range(n_gpus) if group["gpus"] == "all" else group["gpus"]:
            instances[index] = sum(group["profiles"].values())
    faults: list[str] = []
    taken: dict[tuple[int, int], str] = {}
    for service in services:
        where = (service["gpu"], service["instance"])
        if service["instance"] >= instances.get(service["gpu"], 0):
            faults.append(f"the service {service['name']} is to run on instance {where[1]} of GPU {where[0]}, which has {instances.get(where[0], 0)}: correct its mig, or mig.layout.")  # fmt: skip
        elif where in taken:
            faults.append(f"the services {taken[where]} and {service['name']} are to run on the same slice: give every service its own.")  # fmt: skip
        taken.setdefault(where, service["name"])
    return tuple(faults)


def mig_devices(listing: str) -> dict[str, list[str]]:
    """Slices by GPU as ``nvidia-smi -L`` lists them: UUIDs in the order of its lines."""
    found: dict[str, list[str]] = {}
    gpu = ""
    for line in listing.splitlines():
        if match := re.match(r"GPU (\d+): ", line):
            gpu = match[1]
            found[gpu] = []
        elif gpu and (match := re.match(r"\s+MIG .*\(UUID: (MIG-[0-9a-fA-F-]+)\)", line)):
            found[gpu].append(match[1])
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
