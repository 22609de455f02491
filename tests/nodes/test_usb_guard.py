"""USB on a machine: what was plugged in when the guard came is driven, what comes later is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.process import run
from tests.guest import image
from tests.guest.converge import converge
from tests.guest.machine import Guest

SITE = {"appliance_os_baseline_level": 0, "appliance_os_baseline_enable": ["kernel-usb-guard"]}


@pytest.mark.nodes
@pytest.mark.slow
def test_a_stranger_s_device_is_not_driven_and_the_keyboard_of_before_is(tmp_path: Path) -> None:
    guest = Guest(image.ensure("usbguard", kernel=image.WHOLE_KERNEL), tmp_path / "guest", usb=["usb-kbd"])
    # As when the role installs it: not running yet. The image was made where there is no USB, so it has no rules either.
    run(["debugfs", "-w", "-R", "rm /etc/systemd/system/basic.target.wants/usbguard.service", guest.root], package="e2fsprogs")  # fmt: skip
    with guest.running():
        assert guest.ssh("cat /etc/usbguard/rules.conf") == ""
        converge(guest, tmp_path, "os_baseline", SITE, steps=("usb_unit", "usb"))
        assert "QEMU USB Keyboard" in guest.ssh("cat /proc/bus/input/devices"), "it goes on working"
    guest.usb = ["usb-kbd", "usb-mouse"]
    with guest.running():
        named, strange = (guest.ssh(f"usbguard list-devices --{kind}") for kind in ("allowed", "blocked"))
        assert "QEMU USB Keyboard" in named and "QEMU USB Mouse" not in named
        assert "QEMU USB Mouse" in strange and "QEMU USB Keyboard" not in strange
        inputs = guest.ssh("cat /proc/bus/input/devices")
        assert "QEMU USB Keyboard" in inputs and "QEMU USB Mouse" not in inputs
