"""What a node runs, holds on its disk and would boot."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import ApplianceError
from engine.preflight import pci, probe_gpu, probe_system, reading
from engine.process import run

_KERNEL = re.compile(r"^\s*linux\S*\s+\S*/vmlinuz-(\S+)", re.MULTILINE)
_KEY = re.compile(
    r"[0-9a-f]{8} \S+ +\S+ +\S+ +[0-9a-f]+ +0 +-?[0-9]+ asymmetri (.+?)(?:: [0-9a-f]{16,})?: X509\.\S+ .*"
)
MAX_KEYS = 256 << 10  # bytes
# Debian's names are nvidia-current and nvidia-current-open, everybody else's nvidia; compressed on some.
_MODULE = re.compile(r"nvidia(-current|-tesla(-\d+)?)?(-open)?\.ko(\.(xz|gz|zst))?")


@dataclass(frozen=True)
class Module:
    """The module nvidia for one kernel, as modinfo describes the file. ``signer`` is empty for an unsigned one."""

    path: str
    version: str
    signer: str


@dataclass(frozen=True)
class State:
    """``running_*`` is what the kernel says now; empty when no module is loaded. ``devices`` are PCI identifiers of GPUs.

    ``mok_subjects`` are keys of the owner in the firmware, ``kernel_keys`` names of those in the kernel's own keyrings: its vendor's.
    ``boot`` is what the boot loader offers, first the default; None without GRUB. ``now`` is the node's local time, ISO 8601.
    """

    kernel: str
    running_version: str
    running_flavour: str
    devices: tuple[int, ...]
    secure_boot: bool
    mok_subjects: tuple[str, ...]
    kernel_keys: tuple[str, ...]
    kernels: tuple[str, ...]
    modules: dict[str, Module] = field(default_factory=dict)
    boot: tuple[str, ...] | None = None
    now: str = ""


def state(root: Path = Path("/")) -> State:
    """Look. Nothing is loaded or written."""
    driver = probe_gpu.driver(root / "proc", root / "sys")
    firmware = probe_system.firmware(root / "sys/firmware/efi")
    kernels = tuple(sorted(p.name.removeprefix("vmlinuz-") for p in (root / "boot").glob("vmlinuz-*")))
    grub = root / "boot/grub/grub.cfg"
    return State(
        kernel=reading.text(root / "proc/sys/kernel/osrelease", 128),
        running_version=driver.module_version,
        running_flavour=driver.module_flavour,
        devices=tuple(d.device for d in probe_gpu.pci(root / "sys/bus/pci/devices") if d.kind != pci.BRIDGE),
        secure_boot=bool(firmware.secure_boot),
        mok_subjects=firmware.mok_subjects,
        kernel_keys=kernel_keys(reading.text(root / "proc/keys", MAX_KEYS)),
        kernels=kernels,
        modules={k: m for k in kernels if (m := module(k, root / "lib/modules"))},
        boot=boot_entries(grub.read_text(errors="replace")) if grub.is_file() else None,
        now=time.strftime("%Y-%m-%dT%H:%M"),
    )


def kernel_keys(listed: str) -> tuple[str, ...]:
    """Names of the certificates that /proc/keys lists for root, without the key ids that follow them.

    A line ends with the type, cut to nine letters, and ``NAME: KEYID: X509.rsa SHORTID []`` (Documentation/security/keys/core.rst and
    crypto/asymmetric_keys/asymmetric_type.c of Linux).
    """
    return tuple(dict.fromkeys(m[1] for line in listed.splitlines() if (m := _KEY.fullmatch(line.strip()))))


def boot_entries(configuration: str) -> tuple[str, ...]:
    """Kernels of grub.cfg in the order of its entries, each once. The first is what boots unless GRUB_DEFAULT says otherwise."""
    return tuple(dict.fromkeys(_KERNEL.findall(configuration)))


def module(kernel: str, modules: Path = Path("/lib/modules")) -> Module | None:
    """The driver's main module for that kernel; None when there is none, or when it cannot be read."""
    for directory in ("updates", "kernel", "extra"):
        for path in sorted((modules / kernel / directory).rglob("nvidia*.ko*")):
            if _MODULE.fullmatch(path.name):
                return Module(str(path), _modinfo(path, "version"), _modinfo(path, "signer"))
    return None


def _modinfo(path: Path, name: str) -> str:
    try:
        return run(["modinfo", "-F", name, path], package="kmod").stdout.strip()
    except ApplianceError:
        return ""
