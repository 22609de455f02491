"""The health of every GPU, as NVML and the kernel's log tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from engine.nvml import Gpu
from engine.preflight import pci, xid
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, warn
from engine.preflight.facts import Facts

HOT_C = 85  # data center GPUs slow down from 87 °C on; at rest they are below 50
# Reasons of nvmlDeviceGetCurrentClocksEventReasons that are not rest or settings.
SLOWED = {0x8: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
RESET = "Reset the GPU (nvidia-smi --gpu-reset; all GPUs of a board with NVSwitch), or reboot."
REPLACE = "Have the GPU replaced."
SEAT = "Power off and seat the GPU or riser again; check the slot and its setting in the firmware."
MANAGER = "Start the fabric manager of exactly the driver's version: systemctl start nvidia-fabricmanager; journalctl -u nvidia-fabricmanager says why it does not."

Look = Callable[[Gpu, Expectation], Iterator[Finding]]


def answers(gpu: Gpu, _: Expectation) -> Iterator[Finding]:
    lost = sorted({e for e in gpu.errors.values() if e in ("GPU_IS_LOST", "RESET_REQUIRED", "UNKNOWN", "IRQ_ISSUE")})
    if lost:
        yield fail(
            "gpu-answers",
            f"NVML says {', '.join(lost)}",
            f"{RESET} If it stays lost: power off and on, check seat and power.",
        )


def ecc(gpu: Gpu, _: Expectation) -> Iterator[Finding]:
    if gpu.ecc_mode == (0, 0):
        yield warn(
            "ecc", "error correction is off: wrong bits stay unseen", "nvidia-smi --ecc-config=1, then reset the GPU."
        )
    elif gpu.ecc_mode and gpu.ecc_mode[0] != gpu.ecc_mode[1]:
        yield fail("ecc", "a change of error correction waits for a reset", RESET)
    if gpu.ecc.volatile_uncorrected:
        yield fail(
            "ecc",
            f"{gpu.ecc.volatile_uncorrected} uncorrectable memory error(s) since the driver was loaded",
            f"{RESET} When they come back: {REPLACE[0].lower()}{REPLACE[1:]}",
        )
    elif gpu.ecc.aggregate_uncorrected:
        yield warn(
            "ecc",
            f"{gpu.ecc.aggregate_uncorrected} uncorrectable memory error(s) in the GPU's life, none since the driver was loaded",
            "Watch it: nvidia-smi -q -d ECC,ROW_REMAPPER.",
        )


def rows(gpu: Gpu, _: Expectation) -> Iterator[Finding]:
    if gpu.remap and gpu.remap.failed:
        yield fail("memory-rows", "a bad memory row could not be replaced: the spares are used up", REPLACE)
    elif gpu.remap and gpu.remap.pending:
        yield fail("memory-rows", "a bad memory row waits for a reset to be replaced", RESET)
    elif gpu.remap and gpu.remap.uncorrected:
        yield warn(
            "memory-rows",
            f"{gpu.remap.uncorrected} memory rows were replaced after uncorrectable errors",
            "Watch it; eight or more, or a bank without spares, are a case for the vendor.",
        )
    if gpu.retired_pending:
        yield fail("memory-rows", "a bad memory page waits for a reset to be retired", RESET)
    retired = (gpu.retired_single or 0) + (gpu.retired_double or 0)
    if retired >= 60:  # Dynamic Page Retirement: at 64 the table is full; 60 is NVIDIA's criterion for replacing
        yield fail("memory-rows", f"{retired} memory pages are retired", REPLACE)
    elif gpu.retired_double:
        yield warn(
            "memory-rows",
            f"{gpu.retired_double} memory pages are retired after uncorrectable errors",
            "Watch it: nvidia-smi -q -d PAGE_RETIREMENT.",
        )


def mig(gpu: Gpu, want: Expectation) -> Iterator[Finding]:
    if gpu.mig_mode is None or want.gpu is None:
        if want.gpu and want.gpu.mig:
            yield fail(
                "mig",
                "the GPU has no MIG, and the release wants instances",
                "Use a GPU with MIG, or leave target.gpu.mig empty.",
                supported=False,
            )
        return
    current, pending = gpu.mig_mode
    if want.gpu.brings_mig:
        return  # the install divides the GPUs as the site says, whatever they are now
    if current != pending:
        yield fail("mig", "a change of MIG mode waits for a reset", RESET)
    elif bool(current) != want.gpu.mig:
        yield fail(
            "mig", f"MIG is {'on' if current else 'off'}; the release wants {'instances' if want.gpu.mig else 'whole GPUs'}",
            f"nvidia-smi -mig {int(want.gpu.mig)}, with nothing running on the GPU.",
        )  # fmt: skip


def pcie(gpu: Gpu, _: Expectation) -> Iterator[Finding]:
    if gpu.pcie_width and gpu.pcie_max_width and gpu.pcie_width < gpu.pcie_max_width:
        yield fail(
            "pcie", f"the link has {gpu.pcie_width} of {gpu.pcie_max_width} lanes", SEAT,
        )  # fmt: skip
    busy = bool(gpu.processes)
    if busy and gpu.pcie_generation and gpu.pcie_max_generation and gpu.pcie_generation < gpu.pcie_max_generation:
        yield warn(
            "pcie",
            f"the link runs at generation {gpu.pcie_generation} of {gpu.pcie_max_generation} under load",
            "Look for errors of the link (dmesg, AER), and at the slot's setting in the firmware.",
        )


def links(gpu: Gpu, want: Expectation) -> Iterator[Finding]:
    if not want.gpu or not want.gpu.nvswitch:
        return
    down = [n for n, state in enumerate(gpu.links) if state != 1]
    if not gpu.links:
        yield fail(
            "nvlink",
            "NVML knows no NVLinks, and the board should have NVSwitch",
            "Look at dmesg and nvidia-smi nvlink --status; start the fabric manager.",
        )
    elif down:
        yield fail(
            "nvlink",
            f"{len(down)} of {len(gpu.links)} NVLinks are down (numbers {', '.join(map(str, down))})",
            "Restart the fabric manager, reset all GPUs; when they stay down, have the board looked at.",
        )


def fabric(gpu: Gpu, want: Expectation) -> Iterator[Finding]:
    if not want.gpu or not want.gpu.nvswitch:
        return
    if gpu.fabric is None:
        yield fail(
            "fabric", f"NVML does not tell the state of the fabric ({gpu.errors.get('fabric', 'no answer')})", MANAGER
        )
        return
    if gpu.fabric.state != 3:
        state = {0: "not supported", 1: "not started", 2: "in progress"}.get(gpu.fabric.state, str(gpu.fabric.state))
        yield fail("fabric", f"the GPU's registration with the NVSwitch fabric is {state}", MANAGER)
        return
    if gpu.fabric.status:
        yield fail(
            "fabric", f"the GPU's registration with the NVSwitch fabric failed with {gpu.fabric.status}", MANAGER
        )
    # Bits of nvmlGpuFabricInfo's healthMask (NVML_GPU_FABRIC_HEALTH_MASK_*): two each, 1 is true; four for the configuration.
    health = gpu.fabric.health
    if health >> 4 & 3 == 1 or health >> 8 & 15 > 1:
        yield fail(
            "fabric",
            f"the fabric is not healthy (mask {health:#x})",
            "Look at the fabric manager's log; have the board looked at.",
        )
    elif health & 3 == 1 or health >> 2 & 3 == 1 or health >> 6 & 3 == 1:
        yield warn(
            "fabric", f"the fabric is degraded or recovering (mask {health:#x})", "Look at the fabric manager's log."
        )


def state(gpu: Gpu, _: Expectation) -> Iterator[Finding]:
    if gpu.processes:
        who = ", ".join(str(p.pid) for p in gpu.processes[:8])
        yield warn(
            "busy",
            f"{len(gpu.processes)} processes compute on it ({who})",
            "Stop them, unless they are the services of the release before.",
        )
    if gpu.compute_mode == 2:  # NVML_COMPUTEMODE_PROHIBITED
        yield fail("busy", "computing is prohibited on it", "nvidia-smi --compute-mode=DEFAULT.")
    slowed = [word for bit, word in SLOWED.items() if (gpu.clock_reasons or 0) & bit]
    if slowed or (gpu.temperature_c or 0) >= HOT_C:
        yield warn(
            "heat",
            f"{gpu.temperature_c} °C" + (f", slowed by {', '.join(slowed)}" if slowed else ""),
            "Look at fans, air and power supplies.",
        )


LOOKS: dict[str, tuple[Look, str]] = {
    "gpu-answers": (answers, "every GPU answers"),
    "ecc": (ecc, "no uncorrectable memory errors"),
    "memory-rows": (rows, "no memory row waits or could not be replaced"),
    "mig": (mig, "MIG is as the release wants it"),
    "pcie": (pcie, "all lanes are there"),
    "nvlink": (links, "as the board should have them"),
    "fabric": (fabric, "complete, or not part of this board"),
    "state": (state, "nothing computes, nothing is slowed"),
}


def gpus(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Every look at every GPU; one line where all are well."""
    if not want.gpu or not facts.nvml or not facts.pci or facts.nvml.error:
        return
    seen = facts.nvml.gpus
    on_bus = len([d for d in facts.pci if d.kind != pci.BRIDGE])
    if len(seen) < on_bus:
        yield fail(
            "gpu-count",
            f"{on_bus} GPUs are on the bus, NVML knows {len(seen)}",
            "Look at dmesg for the GPU that the driver could not start; reset it or reboot.",
        )
    for look, fine in LOOKS.values():
        found = [(gpu, f) for gpu in seen for f in look(gpu, want)]
        for gpu, f in found:
            yield Finding(
                f.check, f.severity, f"GPU {gpu.index} ({gpu.bus or 'no address'}): {f.what}", f.remedy, f.supported
            )
        if not found and seen:
            yield good(next(k for k, v in LOOKS.items() if v[0] is look), fine)
    yield from _alike(seen)


def _alike(seen: tuple[Gpu, ...]) -> Iterator[Finding]:
    kinds = Counter((g.name or "unknown", round((g.memory_total or 0) / (1 << 30))) for g in seen)
    says = ", ".join(f"{n} x {name} with {gib} GiB" for (name, gib), n in kinds.items())
    if len(kinds) > 1:
        yield warn("gpu-memory", f"the GPUs differ: {says}", "Serve a model on GPUs of one kind only.")
    elif seen:
        yield good("gpu-memory", says)


def lanes(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The kernel's own view of the links, where NVML cannot be asked yet."""
    if not want.gpu or (facts.nvml and facts.nvml.gpus):
        return
    found = [d for d in facts.pci or () if d.kind != pci.BRIDGE and 0 < d.width < d.max_width]
    for d in found:
        yield fail("pcie", f"GPU {d.address}: the link has {d.width} of {d.max_width} lanes", SEAT)
    if facts.pci and not found:
        yield good("pcie", "all lanes are there")


def manager(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Boards with NVSwitch need the fabric manager before anything computes."""
    if not want.gpu or not want.gpu.nvswitch or not facts.driver or not facts.driver.module_version or not facts.pci:
        return
    if facts.driver.fabric_manager:
        yield good("fabric-manager", "runs")
    elif want.gpu.brings_driver:
        yield good("fabric-manager", "does not run; the install brings it with the driver")
    else:
        yield fail("fabric-manager", "the fabric manager does not run, and the GPUs hang on NVSwitch", MANAGER)


def persistence(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The driver stays loaded between programs."""
    if not want.gpu or not facts.nvml or not facts.driver or not facts.nvml.gpus:
        return
    off = [str(g.index) for g in facts.nvml.gpus if g.persistence is False]
    if off and not facts.driver.persistence_daemon:
        yield warn(
            "persistence",
            f"GPU {', '.join(off)}: the driver lets go of them when nothing runs, so starts take seconds longer and counters are lost",
            "systemctl enable --now nvidia-persistenced.",
        )
    else:
        yield good("persistence", "the driver stays")


def xids(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """What the driver complained about since boot."""
    if not want.gpu or not facts.pci or not facts.kernel_log:
        return
    if not facts.kernel_log.readable:
        yield warn("xid", "the kernel's log could not be read", "journalctl -k --grep Xid on the node.")
        return
    counts = Counter((x.device, x.code) for x in facts.kernel_log.xids)
    for (device, code), n in sorted(counts.items()):
        said = xid.meaning(code)
        what = f"GPU {device}: Xid {code}{f', {n} times' if n > 1 else ''}: {said.what}"
        yield (
            fail("xid", what, said.remedy) if said.weight == "fatal"
            else warn("xid", what, said.remedy) if said.weight == "watch"
            else good("xid", f"{what}; a program's doing")
        )  # fmt: skip
    if not counts:
        yield good("xid", "none since boot" + (", as far as the log goes back" if facts.kernel_log.wrapped else ""))


RULES: tuple[Rule, ...] = (gpus, lanes, manager, persistence, xids)
