"""Operating system, machine, memory, firmware and clock against what the release was made for."""

from __future__ import annotations

from collections.abc import Iterator

from engine.clock import TOLERANCE
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, planned, warn
from engine.preflight.facts import Facts

OFFSET_WARN_S = 2.0  # certificates and logs of two hosts no longer agree on the order of events
OFFSET_FAIL_S = TOLERANCE.total_seconds()  # beyond it the node refuses the release's metadata
DRIFT_WARN_PPM = 100.0  # nearly nine seconds a day; the kernel corrects no more than 500
CHIP_WARN_S = 60.0  # what a node would start from after a power cut
HUGE_SHARE = 0.25  # of the memory


def os(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The distribution's release is the one that packages were resolved for."""
    if not (here := facts.system) or not want.os:
        return
    have = f"{here.os_id}-{here.os_version}"
    if have == want.os:
        yield good("os", here.os_name or have)
    else:
        yield fail(
            "os", f"{here.os_name or have or 'an unknown system'}; the release is for {want.os}",
            f"Install {want.os} on the node, or lock a release whose target.os is {have}.", supported=False,
        )  # fmt: skip


def machine(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Processor, interpreter and init are those that content was resolved for."""
    if not (here := facts.system):
        return
    if want.machine and here.machine != want.machine:
        yield fail(
            "machine", f"the processor is {here.machine}; the release is for {want.machine}",
            "Use another node, or a release for this processor.", supported=False,
        )  # fmt: skip
    elif want.vector and not here.vector:
        yield fail(
            "machine", "the processor has no AVX2, which vLLM's build for CPU needs",
            "Serve the model on another node, or on a GPU (devices: [nvidia]).", supported=False,
        )  # fmt: skip
    else:
        yield good("machine", f"{here.machine}, {here.cpus} processors")
    python = ".".join(here.python.split(".")[:2])
    if want.python and python != want.python:
        yield fail(
            "python", f"Python is {here.python}; the wheels are for {want.python}",
            f"Install the distribution whose Python is {want.python}, or lock a release whose target.python is {python}.",
            supported=False,
        )  # fmt: skip
    else:
        yield good("python", here.python)
    if not here.systemd:
        yield fail("systemd", "systemd does not run here", "Boot the node with systemd.", supported=False)
    if not here.root:
        yield warn(
            "root", "the probe did not run as root, so much stays unseen", "Let the login of the inventory use sudo."
        )


def kernel(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The kernel is the one that modules were made for, where the definition names one."""
    if not (here := facts.system):
        return
    if want.kernel and here.kernel != want.kernel and want.gpu and want.gpu.brings_driver:
        yield planned("kernel", f"the kernel is {here.kernel}; the install brings {want.kernel}")
    elif want.kernel and here.kernel != want.kernel:
        yield fail(
            "kernel", f"the kernel is {here.kernel}; the release is for {want.kernel}",
            f"Install linux-image-{want.kernel}, boot it and hold it (apt-mark hold), or lock a release for {here.kernel}.",
        )  # fmt: skip
    else:
        yield good("kernel", here.kernel)


def memory(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Memory for the services, NUMA, and pages that are set aside."""
    if not (here := facts.system):
        return
    if want.memory_bytes > here.memory_bytes:
        yield fail(
            "memory", f"{_gib(here.memory_bytes)} of memory; memory_max of the services allows {_gib(want.memory_bytes)}",
            "Lower memory_max in the site, or add memory.",
        )  # fmt: skip
    else:
        yield good("memory", _gib(here.memory_bytes))
    if not (banks := facts.memory):
        return
    idle = sum(p.size_bytes * p.free for p in banks.huge_pages)
    if idle > HUGE_SHARE * here.memory_bytes:
        yield warn(
            "huge-pages", f"{_gib(idle)} are set aside as huge pages that nobody uses; vLLM cannot",
            "Lower vm.nr_hugepages, unless other software of this node needs them.",
        )  # fmt: skip
    else:
        yield good("huge-pages", f"transparent: {banks.transparent or 'unknown'}, {_gib(idle)} set aside")
    homeless = [d.address for d in facts.pci or () if d.numa_node < 0]
    if banks.numa_nodes > 1 and homeless:
        yield warn(
            "numa", f"the firmware does not say which of {banks.numa_nodes} NUMA nodes {', '.join(homeless)} belong to",
            "Set NUMA (not interleaving) in the firmware, and update it.",
        )  # fmt: skip
    else:
        yield good("numa", f"{banks.numa_nodes or 1} NUMA node{'s' if banks.numa_nodes > 1 else ''}")


def secure_boot(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """What the firmware lets the kernel load fits how the release's modules are signed."""
    if not (here := facts.firmware):
        return
    on, mode = here.secure_boot is True, want.gpu.secure_boot if want.gpu else ""
    if not here.efi:
        yield good("secure-boot", "no UEFI, so no Secure Boot")
    elif here.secure_boot is None and mode:
        yield warn(
            "secure-boot",
            "the firmware's variables cannot be read",
            "mount -t efivarfs efivarfs /sys/firmware/efi/efivars, then ask again.",
        )
    elif on and mode == "off":
        yield fail(
            "secure-boot", "Secure Boot is on; the release's modules are not signed for it and will not load",
            "Turn Secure Boot off in the firmware, or lock a release with target.gpu.secure_boot: mok or signed.",
        )  # fmt: skip
    elif on and mode == "mok" and not here.mok_list:
        yield fail(
            "secure-boot", "Secure Boot is on and no key of the owner is enrolled",
            "Enrol the site's key: mokutil --import KEY.der, reboot, confirm at the console.",
        )  # fmt: skip
    elif on and mode == "mok" and not here.mok_subjects:
        yield warn(
            "secure-boot", "keys of the owner are enrolled, but mokutil is not there to name them", "Install mokutil."
        )
    elif not on and mode in ("mok", "signed"):
        yield warn(
            "secure-boot", f"Secure Boot is {'in setup mode' if here.setup_mode else 'off'}; the definition says {mode}",
            "Turn it on in the firmware, or set target.gpu.secure_boot: off.",
        )  # fmt: skip
    else:
        keys = f"; owner's keys: {', '.join(here.mok_subjects)}" if here.mok_subjects else ""
        yield good("secure-boot", f"{'on' if on else 'off'}{keys}")


def clock(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The node's time agrees with the control host's, and something keeps it."""
    if not (here := facts.clock):
        return
    apart = max(0.0, abs(want.offset_s) - want.offset_error_s)
    says = f"{'ahead of' if want.offset_s > 0 else 'behind'} the control host by {abs(want.offset_s):.1f} s (± {want.offset_error_s:.1f})"
    if apart > OFFSET_FAIL_S:
        yield fail(
            "clock-offset",
            f"the clock is {says}; the node would refuse the release's metadata",
            "Set the clock, on the side that is wrong.",
        )
    elif apart > OFFSET_WARN_S:
        yield warn(
            "clock-offset",
            f"the clock is {says}",
            "Set the clock before the install; a step under load breaks timeouts.",
        )
    else:
        yield good("clock-offset", f"within {max(OFFSET_WARN_S, want.offset_error_s):.1f} s of the control host")
    if here.synchronized is None:
        yield warn(
            "clock-sync", "the kernel does not say whether the clock is kept", "Look at timedatectl on the node."
        )
    elif not here.synchronized:
        yield warn(
            "clock-sync", "nothing keeps the clock (adjtimex: unsynchronised); it drifts until certificates and metadata are refused",
            "Run chrony or systemd-timesyncd against a time server inside, and name it under egress of the site.",
        )  # fmt: skip
    elif abs(here.drift_ppm or 0.0) > DRIFT_WARN_PPM:
        yield warn(
            "clock-sync",
            f"the clock's oscillator is off by {here.drift_ppm:.0f} parts per million",
            "Watch it; the board may be failing.",
        )
    else:
        yield good("clock-sync", f"kept, oscillator corrected by {here.drift_ppm or 0.0:.1f} parts per million")
    if here.rtc_offset_s is not None and abs(here.rtc_offset_s) > CHIP_WARN_S:
        yield warn(
            "clock-chip", f"the clock chip differs from the system's time by {here.rtc_offset_s:.0f} s; after a power cut the node would start with that",
            "Run hwclock --systohc once the time is right, and check the battery.",
        )  # fmt: skip


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"


RULES: tuple[Rule, ...] = (os, machine, kernel, memory, secure_boot, clock)
