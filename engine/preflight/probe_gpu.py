"""NVIDIA's devices on the bus, its driver, and what the driver complained about."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from engine import nvml
from engine.preflight import reading
from engine.preflight.facts import Driver, KernelLog, PciDevice, Xid

NVIDIA = 0x10DE
KINDS = (0x0300, 0x0302, 0x0680)  # VGA controller, 3D controller, and the bridge class that NVSwitch has
MAX_DEVICES = 128
MAX_XIDS = 256
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]{7,16})\): (\d{1,4}),? ?(.{0,200})")
_MODULES = (
    "nouveau",
    "nvidia",
    "nvidia_drm",
    "nvidia_fs",
    "nvidia_modeset",
    "nvidia_peermem",
    "nvidia_uvm",
    "nova_core",
)


def pci(bus: Path = Path("/sys/bus/pci/devices")) -> tuple[PciDevice, ...]:
    """Graphics, 3D and switch devices of NVIDIA."""
    found = []
    for device in sorted(bus.glob("*"))[: MAX_DEVICES * 32]:
        kind = reading.number(device / "class", 16) >> 8
        if reading.number(device / "vendor", 16) != NVIDIA or kind not in KINDS:
            continue
        driver = device / "driver"
        found.append(
            PciDevice(
                address=device.name,
                device=reading.number(device / "device", 16),
                kind=kind,
                driver=driver.readlink().name if driver.is_symlink() else "",
                numa_node=reading.number(device / "numa_node", missing=-1),
                speed=reading.text(device / "current_link_speed", 64),
                max_speed=reading.text(device / "max_link_speed", 64),
                width=reading.number(device / "current_link_width"),
                max_width=reading.number(device / "max_link_width"),
            )
        )
    return tuple(found[:MAX_DEVICES])


def driver(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Driver:
    """The loaded driver. cuDriverGetVersion needs no cuInit, so nothing is loaded by asking."""
    loaded = {line.split(" ", 1)[0] for line in reading.text(proc / "modules").splitlines()}
    banner = reading.text(proc / "driver/nvidia/version")
    version, error = _cuda()
    return Driver(
        modules=tuple(m for m in _MODULES if m in loaded),
        module_version=module_version(banner) or reading.text(sys / "module/nvidia/version", 64),
        module_flavour="" if not banner else "open" if "Open Kernel Module" in banner else "proprietary",
        cuda=version,
        cuda_error=error,
        persistence_daemon=Path("/run/nvidia-persistenced/socket").exists(),
        fabric_manager=_running("nv-fabricmanager", proc),
    )


def module_version(banner: str) -> str:
    """The version in /proc/driver/nvidia/version: ``NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  …``."""
    match = re.search(r"NVRM version:.*?\s(\d{3}\.\d{1,3}(?:\.\d{1,3})?)\s", banner)
    return match[1] if match else ""


def read_nvml() -> nvml.Nvml:
    """What NVML says. Asked only when the driver is there, for opening NVML may load it and make its device files."""
    if not Path("/proc/driver/nvidia/version").exists() or not Path("/dev/nvidiactl").exists():
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return nvml.Nvml(error="LIBRARY_NOT_FOUND")
        return nvml.Nvml(error="DRIVER_NOT_LOADED")
    import pynvml  # noqa: PLC0415  only nodes with a driver read it

    return nvml.read(pynvml)


def kernel_log(device: str = "/dev/kmsg") -> KernelLog:
    """Xid errors since boot. Every reader of /dev/kmsg has a position of its own, so nothing is taken from others."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return KernelLog(False, False, ())
    first, xids = None, []
    try:
        while True:
            try:
                record = os.read(descriptor, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == 32:  # EPIPE: the record was overwritten while we read; the next read goes on
                    continue
                break
            if not record:
                break
            head, _, line = record.partition(";")
            fields = head.split(",")
            first = int(fields[1]) if first is None and len(fields) > 2 else first
            if found := xid(line, int(fields[2]) / 1e6 if len(fields) > 2 else 0.0):
                xids.append(found)
    finally:
        os.close(descriptor)
    return KernelLog(True, bool(first), tuple(xids[-MAX_XIDS:]))


def xid(line: str, seconds: float) -> Xid | None:
    """The error in a line of the kernel's log; both forms that drivers write (``PCI:0000:65:00`` and ``0000:65:00``)."""
    match = _XID.search(line)
    return Xid(int(match[2]), match[1], seconds, match[3].strip()) if match else None


def _cuda() -> tuple[int | None, str]:
    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return None, "not found" if "No such file" in str(error) or "cannot open" in str(error) else str(error)[:200]
    version = ctypes.c_int(0)
    code = library.cuDriverGetVersion(ctypes.byref(version))
    return (version.value, "") if code == 0 else (None, f"cuDriverGetVersion answers {code}")


def _running(name: str, proc: Path) -> str:
    """``running`` when a process of that name is there; the kernel keeps 15 characters of a name."""
    return next(("running" for p in proc.glob("[0-9]*/comm") if reading.text(p, 64) == name[:15]), "")
