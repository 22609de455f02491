"""The device files that CUDA needs, made before anything that may not make them itself starts.

A sandboxed service can neither load the module nvidia-uvm nor make a device file; NVIDIA's libraries would start the setuid helper
nvidia-modprobe for both. So one unit does it at boot, once the driver is up and the GPUs are divided.

Where the numbers come from: /proc/devices has the majors; /proc/driver/nvidia/gpus/*/information has each GPU's minor ("Device Minor");
the files below /proc/driver/nvidia/capabilities have minor and mode of each capability ("DeviceFileMinor", "DeviceFileMode"), as the
Multi-Instance GPU User Guide of NVIDIA describes it. nvidiactl has minor 255, nvidia-uvm 0 and nvidia-uvm-tools 1 (nvidia-modprobe,
modprobe-utils/nvidia-modprobe-utils.h).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ResourceError
from engine.preflight import reading

CONTROL_MINOR, UVM_MINOR, UVM_TOOLS_MINOR = 255, 0, 1
EVERYBODY = 0o666
MAX_GPUS, MAX_CAPABILITIES = 128, 4096
_MINOR = re.compile(r"^Device Minor:\s*(\d{1,3})\s*$", re.MULTILINE)
_FIELD = re.compile(r"^(DeviceFile(?:Minor|Mode)):\s*(\d{1,7})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Device:
    """One character device. ``path`` below /dev; ``mode`` its permissions."""

    path: str
    major: int
    minor: int
    mode: int


@dataclass(frozen=True)
class Seen:
    """What the driver shows. ``gpus`` counts those it has started; ``missing`` names what is not there yet."""

    devices: tuple[Device, ...]
    gpus: int
    missing: tuple[str, ...]


def look(proc: Path = Path("/proc")) -> Seen:
    """The devices that the loaded driver has. Only looks."""
    majors = _majors(reading.text(proc / "devices", 64 << 10))
    # Before branch 545 the driver's own major was called nvidia-frontend.
    own = majors.get("nvidia", majors.get("nvidia-frontend"))
    missing = [
        name
        for name, there in (("the module nvidia", own), ("the module nvidia_uvm", majors.get("nvidia-uvm")))
        if there is None
    ]
    minors = sorted(_gpu_minors(proc / "driver/nvidia/gpus"))
    found: list[Device] = []
    if own is not None:
        found.append(Device("nvidiactl", own, CONTROL_MINOR, EVERYBODY))
        found += [Device(f"nvidia{minor}", own, minor, EVERYBODY) for minor in minors]
    if (uvm := majors.get("nvidia-uvm")) is not None:
        found.append(Device("nvidia-uvm", uvm, UVM_MINOR, EVERYBODY))
        found.append(Device("nvidia-uvm-tools", uvm, UVM_TOOLS_MINOR, EVERYBODY))
    if (caps := majors.get("nvidia-caps")) is not None:
        found += [
            Device(f"nvidia-caps/nvidia-cap{minor}", caps, minor, mode)
            for minor, mode in _capabilities(proc / "driver/nvidia/capabilities")
        ]
    return Seen(tuple(found), len(minors), tuple(missing))


def make(device: Device, dev: Path = Path("/dev")) -> bool:
    """Make one device file, or correct it; False when it was there as it should be.

    Raises:
        ResourceError: something that is no device is in its place, or the kernel does not let this process make devices.
    """
    path = dev / device.path
    wanted = os.makedev(device.major, device.minor)
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        try:
            here = path.lstat()
        except FileNotFoundError:
            here = None
        if here is not None and not stat.S_ISCHR(here.st_mode):
            raise ResourceError(
                "this is not a device", where=str(path), remedy="Remove it; it does not belong into /dev."
            )
        if here is not None and here.st_rdev == wanted:
            if stat.S_IMODE(here.st_mode) == device.mode:
                return False
            path.chmod(device.mode)
            return True
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        os.mknod(beside, stat.S_IFCHR | device.mode, wanted)
        beside.chmod(device.mode)  # mknod takes the umask away
        beside.replace(path)
    except OSError as error:
        raise ResourceError(
            f"the device cannot be made: {error.strerror}",
            where=str(path),
            remedy="It takes root with CAP_MKNOD on the node itself.",
        ) from error
    return True


def _majors(text: str) -> dict[str, int]:
    """Names of character devices with their majors, of /proc/devices."""
    part = text.partition("Block devices:")[0]
    rows = (line.split() for line in part.splitlines())
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdecimal()}


def _gpu_minors(gpus: Path) -> Iterator[int]:
    for place in sorted(gpus.glob("*"))[:MAX_GPUS]:
        if found := _MINOR.search(reading.text(place / "information", 4096)):
            yield int(found[1])


def _capabilities(base: Path) -> list[tuple[int, int]]:
    """Minor and mode of each capability, by minor. Those of slices may be opened by everybody; what guards them is who gets the device."""
    found: dict[int, int] = {}
    for number, path in enumerate(sorted(base.rglob("*"))):
        if number >= MAX_CAPABILITIES:
            break
        if path.is_file():
            fields = dict(_FIELD.findall(reading.text(path, 512)))
            if "DeviceFileMinor" in fields:
                found[int(fields["DeviceFileMinor"])] = int(fields.get("DeviceFileMode", "0")) & 0o777
    return sorted(found.items())
