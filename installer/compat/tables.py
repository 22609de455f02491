"""What vendors document about drivers, GPUs and operating systems. Every table names its source and the day it was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

Architecture = Literal["maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "grace-hopper", "blackwell"]


@dataclass(frozen=True)
class Branch:
    """A driver branch. ``cuda`` is the toolkit its release carries, ``ends`` its last supported day."""

    designation: str
    cuda: tuple[int, int]
    ends: date | None


# NVIDIA data center driver documentation, "Supported Drivers and CUDA Toolkit Versions" (edition 615, read November
# 2026). A branch without an end has no row there yet. The toolkits of 535 and 615 are not in that table.
BRANCHES: dict[int, Branch] = {
    535: Branch("long-term support", (12, 2), date(2026, 6, 30)),
    580: Branch("long-term support", (13, 0), date(2028, 6, 30)),
    595: Branch("production", (13, 2), date(2027, 3, 31)),
    610: Branch("new feature", (13, 3), date(2026, 8, 31)),
    615: Branch("not designated", (13, 4), None),
    620: Branch("not designated", (13, 5), None),
}

# CUDA Compatibility guide, "Minor Version Compatibility", table 1: CUDA major version to the lowest driver branch.
CUDA_NEEDS = {11: 450, 12: 525, 13: 580}

# CUDA 13.0 release notes, deprecated and dropped features: libraries and compilers end for what came before Turing.
FIRST_CUDA_WITHOUT_OLD = 13

# Driver Installation Guide, "Kernel Modules": open modules work from Turing on (they need the GPU's own system
# processor). Guide of branch 620: proprietary modules are removed; 580 is the last branch for what came before Turing.
OPEN_ONLY_FROM = 620
# NVIDIA's announcement with branch 560: from there its installers take the open modules for every GPU that can have them.
OPEN_FROM = 560
BEFORE_OPEN: frozenset[Architecture] = frozenset({"maxwell", "pascal", "volta"})
LAST_BEFORE_OPEN = 580
# The driver's own README and NVIDIA's announcement of the move to open modules: these never had proprietary ones.
NEEDS_OPEN: frozenset[Architecture] = frozenset({"grace-hopper", "blackwell"})

# MIG User Guide, "Getting Started with MIG" (B200: 570.133.20, RTX PRO: 575.51.03). The others are the first branches
# that named the architecture; they were not read again, and no supported branch is that old.
FIRST_BRANCH: dict[Architecture, int] = {
    "turing": 410, "ampere": 450, "ada": 525, "hopper": 525, "grace-hopper": 535, "blackwell": 570,
}  # fmt: skip


@dataclass(frozen=True)
class GpuModel:
    """A GPU product. ``sm`` is its compute capability; ``nvswitch`` when its usual board carries switches; ``processor``
    when it is sold with one only."""

    architecture: Architecture
    sm: tuple[int, int]
    mig: str = ""
    nvswitch: bool = False
    first_branch: int = 0
    processor: Literal["x86_64", "aarch64", ""] = ""

    @property
    def needs_branch(self) -> int:
        return self.first_branch or FIRST_BRANCH.get(self.architecture, 0)


# Compute capabilities: NVIDIA's list "CUDA GPUs"; MIG rows: MIG User Guide, "Supported GPUs". Boards with NVSwitch:
# Fabric Manager User Guide (HGX and DGX A100, H100, H200, B200, B300; GB200 and GB300 use switch trays instead).
GPUS: dict[str, GpuModel] = {
    "m60": GpuModel("maxwell", (5, 2)),
    "p4": GpuModel("pascal", (6, 1)),
    "p40": GpuModel("pascal", (6, 1)),
    "p100": GpuModel("pascal", (6, 0)),
    "v100": GpuModel("volta", (7, 0)),
    "t4": GpuModel("turing", (7, 5)),
    "a2": GpuModel("ampere", (8, 6)),
    "a10": GpuModel("ampere", (8, 6)),
    "a16": GpuModel("ampere", (8, 6)),
    "a40": GpuModel("ampere", (8, 6)),
    "a30": GpuModel("ampere", (8, 0), "a30"),
    "a100-40": GpuModel("ampere", (8, 0), "a100-40"),
    "a100-80": GpuModel("ampere", (8, 0), "a100-80"),
    "a100-sxm-40": GpuModel("ampere", (8, 0), "a100-40", nvswitch=True),
    "a100-sxm-80": GpuModel("ampere", (8, 0), "a100-80", nvswitch=True),
    "l4": GpuModel("ada", (8, 9)),
    "l40": GpuModel("ada", (8, 9)),
    "l40s": GpuModel("ada", (8, 9)),
    "h100": GpuModel("hopper", (9, 0), "h100-80", nvswitch=True),
    "h100-pcie": GpuModel("hopper", (9, 0), "h100-80"),
    "h100-nvl": GpuModel("hopper", (9, 0), "h100-94"),
    "h20": GpuModel("hopper", (9, 0), "h100-96", nvswitch=True),
    "h200": GpuModel("hopper", (9, 0), "h200", nvswitch=True),
    "h200-nvl": GpuModel("hopper", (9, 0), "h200"),
    "gh200-96": GpuModel("grace-hopper", (9, 0), "h100-96", processor="aarch64"),
    "gh200-144": GpuModel("grace-hopper", (9, 0), "gh200-144", processor="aarch64"),
    "b200": GpuModel("blackwell", (10, 0), "b200", nvswitch=True),
    "gb200": GpuModel("blackwell", (10, 0), "gb200", processor="aarch64"),
    "b300": GpuModel("blackwell", (10, 3), "b300", nvswitch=True),
    "rtx-pro-6000": GpuModel("blackwell", (12, 0), "rtx-pro-6000", first_branch=575),
}


@dataclass(frozen=True)
class MigTable:
    """MIG of one GPU: slices of compute and of memory, and profiles with (compute, memory, most instances)."""

    compute: int
    memory: int
    profiles: dict[str, tuple[int, int, int]]


def _sevenths(small: str, wide: str, half: str, full: str, *, media: bool = True) -> MigTable:
    """Geometry of every GPU with seven slices; only the memory of the names differs (MIG User Guide, table A100)."""
    profiles = {
        f"1g.{small}": (1, 1, 7), f"1g.{wide}": (1, 2, 4), f"2g.{wide}": (2, 2, 3), f"3g.{half}": (3, 4, 2),
        f"4g.{half}": (4, 4, 1), f"7g.{full}": (7, 8, 1),
    }  # fmt: skip
    if media:
        profiles[f"1g.{small}+me"] = (1, 1, 1)
    return MigTable(7, 8, profiles)


# MIG User Guide, "Supported MIG Profiles", and the configuration that NVIDIA ships with mig-parted
# (deployments/systemd/config-default.yaml), which counts instances by PCI identifier. B300: GPU Operator 25.3.
MIG: dict[str, MigTable] = {
    "a30": MigTable(
        4, 4,
        {"1g.6gb": (1, 1, 4), "1g.6gb+me": (1, 1, 1), "2g.12gb": (2, 2, 2), "2g.12gb+me": (2, 2, 1), "4g.24gb": (4, 4, 1)},
    ),
    "a100-40": _sevenths("5gb", "10gb", "20gb", "40gb"),
    "a100-80": _sevenths("10gb", "20gb", "40gb", "80gb"),
    "h100-80": _sevenths("10gb", "20gb", "40gb", "80gb"),
    "h100-94": _sevenths("12gb", "24gb", "47gb", "94gb"),
    "h100-96": _sevenths("12gb", "24gb", "48gb", "96gb"),
    "h200": _sevenths("18gb", "35gb", "71gb", "141gb"),
    "gh200-144": _sevenths("18gb", "36gb", "72gb", "144gb"),
    "b200": _sevenths("23gb", "45gb", "90gb", "180gb"),
    "gb200": _sevenths("24gb", "47gb", "95gb", "189gb"),
    "b300": _sevenths("34gb", "67gb", "135gb", "269gb", media=False),
    "rtx-pro-6000": MigTable(
        4, 4,
        {
            "1g.24gb": (1, 1, 4), "1g.24gb+gfx": (1, 1, 4), "1g.24gb+me.all": (1, 1, 1), "1g.24gb-me": (1, 1, 4),
            "2g.48gb": (2, 2, 2), "2g.48gb+gfx": (2, 2, 2), "2g.48gb+me.all": (2, 2, 1), "2g.48gb-me": (2, 2, 2),
            "4g.96gb": (4, 4, 1), "4g.96gb+gfx": (4, 4, 1),
        },
    ),
}  # fmt: skip

# Compute capabilities that published builds hold machine code for. torch 2.13.0 of CUDA 13.0: printed by the wheel
# itself (torch._C._cuda_getArchFlags). vllm 0.32 and 0.33: read from the shared objects of the wheels.
BUILT_FOR: dict[tuple[str, str], frozenset[tuple[int, int]]] = {
    ("torch", "2.13"): frozenset({(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)}),
    ("vllm", "0.32"): frozenset({(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)}),
    ("vllm", "0.33"): frozenset({(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)}),
}

# NVIDIA's release notes of the exporter: the DCGM it is built against. The role dcgm_exporter has the same pairs.
DCGM_PAIRS = {"4.5.3": "4.8.2", "4.6.0": "4.8.3"}
DEB_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
