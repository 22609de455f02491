"""USB on a machine: what was plugged in when the guard came is driven, what comes later is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.process import run
from tests.guest import image
from tests.guest.converge import converge
from tests.guest.machine import Guest

KEYBOARD = "QEMU USB Keyboard"
SITE = {"appliance_os_baseline_level": 0, "appliance_os_baseline_enable": ["kernel-usb-guard"]}


def inputs(guest: Guest) -> str:
    """What the kernel reads input from, once the keyboard is among it; an emulated machine takes its time to drive one."""
    return guest.ssh(
        f"for _ in $(seq 60); do grep -q '{KEYBOARD}' /proc/bus/input/devices && break; sleep 1; done; cat /proc/bus/input/devices"
    )


@pytest.mark.nodes
@pytest.mark.slow
def test_a_stranger_s_device_is_not_driven_and_the_keyboard_of_before_is(tmp_path: Path) -> None:
    guest = Guest(image.ensure("usbguard", kernel=image.WHOLE_KERNEL), tmp_path / "guest", usb=["usb-kbd"])
    # As when the role installs it: not running yet. The image was made where there is no USB, so it has no rules either.
    # usbguard-dbus would start it, too.
    links = ("basic.target.wants/usbguard.service", "multi-user.target.wants/usbguard-dbus.service")
    run(["debugfs", "-w", "-f", "-", guest.root], stdin="".join(f"rm /etc/systemd/system/{n}\n" for n in links), package="e2fsprogs")  # fmt: skip
    with guest.running():
        assert guest.ssh("cat /etc/usbguard/rules.conf") == ""
        assert KEYBOARD in inputs(guest)
        converge(guest, tmp_path, "os_baseline", SITE, steps=("usb_unit", "usb"))
        assert KEYBOARD in inputs(guest), f"it goes on working: {guest.ssh('usbguard list-devices')}"
    guest.usb = ["usb-kbd", "usb-mouse"]
    with guest.running():
        named, strange = (guest.ssh(f"usbguard list-devices --{kind}") for kind in ("allowed", "blocked"))
        assert KEYBOARD in named and "QEMU USB Mouse" not in named
        assert "QEMU USB Mouse" in strange and KEYBOARD not in strange
        driven = inputs(guest)
        assert KEYBOARD in driven and "QEMU USB Mouse" not in driven
