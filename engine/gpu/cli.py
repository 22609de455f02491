"""`appliance-engine devices`: make the device files of the GPUs, waiting for the driver with a deadline."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from engine import outlet
from engine.errors import ApplianceError, ResourceError
from engine.gpu import devices
from engine.preflight import pci, probe_gpu
from engine.process import run

MODULES = ("nvidia", "nvidia_uvm")
PAUSE_S = 1.0


def ensure(
    wait_s: float,
    proc: Path,
    dev: Path,
    bus: Path,
    load: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Load the modules, wait until every GPU on the bus was started, and make what is missing; paths of what was made or corrected.

    Args:
        wait_s: seconds to wait for the driver.
        bus: directory of the kernel's list of PCI devices.

    Raises:
        ResourceError: no GPU is in the node, or the driver did not come up in time; says what was waited for.
    """
    on_bus = sum(d.kind != pci.BRIDGE for d in probe_gpu.pci(bus))
    if not on_bus:
        raise ResourceError(
            "there is no NVIDIA GPU in this node",
            remedy="Take it out of the group gpu, or check the GPU's power and seat.",
        )
    until = time.monotonic() + wait_s
    while True:
        for module in MODULES:
            load(module)
        seen = devices.look(proc)
        lack = list(seen.missing)
        if seen.gpus < on_bus:
            lack.append(f"{on_bus - seen.gpus} of {on_bus} GPUs")
        if not lack:
            return [d.path for d in seen.devices if devices.make(d, dev)]
        if time.monotonic() >= until:
            raise ResourceError(
                f"the driver did not bring up {' and '.join(lack)} within {wait_s:.0f} s",
                remedy="Look at dmesg on the node, and at `appliance preflight`, which names what is wrong with driver and GPUs.",
            )
        pause(PAUSE_S)


def main(argv: list[str]) -> int:
    """Make the devices; prints one JSON document with what was made."""
    parser = argparse.ArgumentParser(prog="appliance-engine devices", description="Make the device files of the GPUs.")
    parser.add_argument("--wait", type=float, default=120, metavar="SECONDS", help="how long to wait for the driver")
    parser.add_argument("--proc", type=Path, default=Path("/proc"), help=argparse.SUPPRESS)
    parser.add_argument("--bus", type=Path, default=Path("/sys/bus/pci/devices"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)

    def load(module: str) -> None:
        try:
            run(["modprobe", module], package="kmod")
        except ApplianceError as error:
            outlet.tell(f"{error.what}\n")  # what is missing then is said once, by the deadline

    made = ensure(options.wait, options.proc, Path("/dev"), options.bus, load)
    outlet.result(json.dumps({"made": made}) + "\n")
    return 0
