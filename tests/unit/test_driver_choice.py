"""Modules by GPU generation, CUDA's compatibility package, MIG's room, and when a node may be rebooted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.driver.state import boot_entries, state
from installer.compat.choice import compat, mig, modules
from installer.site.maintenance import fallback, inside, reboot_reasons, stale

M60, P100, V100, T4, A100, H100, B200, STRANGE = 0x13F2, 0x15F8, 0x1DB1, 0x1EB8, 0x20B0, 0x2330, 0x2901, 0x9999
KERNEL = "6.1.0-50-cloud-amd64"


@pytest.mark.parametrize(
    ("devices", "version", "asked", "flavour"),
    [
        ([M60], "580.178.04", "auto", "proprietary"), ([P100], "580.178.04", "auto", "proprietary"),
        ([V100, V100], "535.309.01", "auto", "proprietary"), ([V100, T4], "580.178.04", "auto", "proprietary"),
        ([T4], "550.163.01", "auto", "proprietary"), ([A100], "580.178.04", "auto", "open"), ([H100], "620.70.06", "auto", "open"),
        ([B200], "580.178.04", "auto", "open"), ([A100], "550.163.01", "open", "open"), ([A100], "580.178.04", "proprietary", "proprietary"),
        ([STRANGE], "580.178.04", "open", "open"), ([], "535.309.01", "proprietary", "proprietary"),
    ],
)  # fmt: skip
def test_the_gpus_decide_about_the_modules(devices: list[int], version: str, asked: str, flavour: str) -> None:
    assert modules(devices, version, asked).flavour == flavour


@pytest.mark.parametrize(
    ("devices", "version", "asked", "names"),
    [
        ([V100], "595.84", "auto", ("volta", "580 was the last")), ([P100], "580.178.04", "open", ("pascal", "proprietary or auto")),
        ([B200], "580.178.04", "proprietary", ("blackwell", "open or auto")), ([A100], "620.70.06", "proprietary", ("since branch 620",)),
        ([V100, B200], "580.178.04", "auto", ("volta", "blackwell", "cannot share")), ([B200], "550.163.01", "auto", ("b200", "570")),
        ([STRANGE], "580.178.04", "auto", ("10de:9999", "gpu_driver.modules")), ([], "580.178.04", "auto", ("no NVIDIA GPU",)),
    ],
)  # fmt: skip
def test_a_mismatch_is_refused_in_words(devices: list[int], version: str, asked: str, names: tuple[str, ...]) -> None:
    choice = modules(devices, version, asked)
    assert choice.flavour == ""
    assert all(n in " ".join(choice.faults) for n in names), choice.faults


@pytest.mark.parametrize(
    ("devices", "driver", "package", "names"),
    [
        ([H100], "580.178.04", "595.84", ()), ([A100], "535.309.01", "580.178.04", ()),
        ([H100], "595.84", "580.178.04", ("as new as",)), ([H100], "580.178.04", "580.178.04", ("as new as",)),
        ([H100], "580.105.08", "580.178.04", ()),
        ([H100], "550.163.01", "580.178.04", ("branch 550", "neither a production")), ([STRANGE], "535.309.01", "580.178.04", ("10de:9999",)),
    ],
)  # fmt: skip
def test_the_compatibility_package_stands_only_where_the_table_allows_it(
    devices: list[int], driver: str, package: str, names: tuple[str, ...]
) -> None:
    faults = compat(devices, driver, package)
    assert bool(faults) == bool(names)
    assert all(n in " ".join(faults) for n in names), faults


@pytest.mark.parametrize(
    ("devices", "layout", "names"),
    [
        ([A100], [{"gpus": "all", "profiles": {"1g.5gb": 7}}], ()),
        ([A100, A100], [{"gpus": [0], "profiles": {"3g.20gb": 2}}, {"gpus": [1], "profiles": {}}], ()),
        ([A100], [{"gpus": "all", "profiles": {"1g.5gb": 8}}], ("8 instances", "has 7")),
        ([A100], [{"gpus": "all", "profiles": {"4g.20gb": 1, "3g.20gb": 2}}], ("slices",)),
        ([A100], [{"gpus": "all", "profiles": {"1g.10gb+me": 1}}], ("no MIG profile 1g.10gb+me",)),
        ([T4], [{"gpus": "all", "profiles": {"1g.5gb": 1}}], ("GPU 0 (t4)", "no MIG profiles")),
        ([T4], [{"gpus": "all", "profiles": {}}], ()),
        ([A100], [{"gpus": [1], "profiles": {"1g.5gb": 1}}], ("names GPU 1", "has 1")),
        ([A100], [{"gpus": "all", "profiles": {}}, {"gpus": [0], "profiles": {"7g.40gb": 1}}], ("GPU 0 twice",)),
    ],
)  # fmt: skip
def test_a_layout_that_the_gpus_cannot_hold_is_refused(
    devices: list[int], layout: list[dict[str, Any]], names: tuple[str, ...]
) -> None:
    faults = mig(devices, layout)
    assert bool(faults) == bool(names)
    assert all(n in " ".join(faults) for n in names), faults


@pytest.mark.parametrize(
    ("days", "begin", "end", "now", "expected"),
    [
        (["sat"], "22:00", "04:00", "2026-11-21T22:00", True), (["sat"], "22:00", "04:00", "2026-11-22T03:59", True),
        (["sat"], "22:00", "04:00", "2026-11-22T04:00", False), (["sat"], "22:00", "04:00", "2026-11-21T21:59", False),
        (["sat"], "22:00", "04:00", "2026-11-21T03:00", False), (["sun"], "01:00", "02:00", "2026-11-22T01:30", True),
        ([], "01:00", "02:00", "2026-11-25T01:30", True), (["sun"], "01:00", "02:00", "2026-11-23T01:30", False),
        (["mon"], "00:00", "00:00", "2026-11-23T12:00", True), (["mon"], "00:00", "00:00", "2026-11-24T12:00", False),
    ],
)  # fmt: skip
def test_the_window_is_open_when_it_says(days: list[str], begin: str, end: str, now: str, expected: bool) -> None:
    assert inside({"days": days, "from": begin, "to": end}, datetime.fromisoformat(now)) is expected


@pytest.mark.parametrize("window", [None, {}])
def test_without_a_window_nothing_reboots(window: dict[str, Any] | None) -> None:
    assert not inside(window, datetime(2026, 11, 21))


def test_a_reboot_is_due_for_another_kernel_or_module_and_not_otherwise() -> None:
    good = {"kernel": KERNEL, "running_version": "535.309.01"}
    assert reboot_reasons(good, "535.309.01", KERNEL) == []
    assert (
        "module 535.261.03 is loaded"
        in reboot_reasons({**good, "running_version": "535.261.03"}, "535.309.01", KERNEL)[0]
    )
    assert "kernel 6.12 runs" in reboot_reasons({**good, "kernel": "6.12"}, "535.309.01", KERNEL)[0]
    assert "no kernel module" in reboot_reasons({**good, "running_version": ""}, "535.309.01", KERNEL)[0]


def test_the_kernel_to_fall_back_on_is_the_running_one_then_the_held_one_then_the_newest() -> None:
    kernels = {f"linux-image-{KERNEL}": "1", "linux-image-6.1.0-9-amd64": "1", "linux-image-6.1.0-10-amd64": "1"}
    assert fallback(kernels, "6.1.0-9-amd64", KERNEL) == "linux-image-6.1.0-9-amd64"
    assert fallback(kernels, KERNEL, KERNEL) == "linux-image-6.1.0-10-amd64"
    assert fallback(kernels, KERNEL, KERNEL, ["linux-image-6.1.0-9-amd64"]) == "linux-image-6.1.0-9-amd64"
    assert fallback({f"linux-image-{KERNEL}": "1"}, "6.18", KERNEL) == ""
    assert stale(["a", "b"], ["b", "c"]) == ["a"]


def test_grubs_entries_are_read_in_their_order() -> None:
    text = "menuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6.1.0-56-amd64 root=x ro\n}\nsubmenu {\n linux /vmlinuz-6.1.0-56-amd64 single\n linux /vmlinuz-6.1.0-50-amd64 root=x\n}\n"
    assert boot_entries(text) == ("6.1.0-56-amd64", "6.1.0-50-amd64")


def test_a_node_is_looked_at_through_proc_and_sys(tmp_path: Path) -> None:
    files = {
        "proc/sys/kernel/osrelease": f"{KERNEL}\n",
        "proc/modules": "nvidia 1 0 - Live 0x0\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.309.01  Tue\n",
        "sys/bus/pci/devices/0000:65:00.0/class": "0x030200\n",
        "sys/bus/pci/devices/0000:65:00.0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0000:65:00.0/device": "0x20b0\n",
        f"boot/vmlinuz-{KERNEL}": "",
        "boot/grub/grub.cfg": f"linux /boot/vmlinuz-{KERNEL} ro\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    seen = state(tmp_path)
    assert (seen.kernel, seen.running_version, seen.running_flavour) == (KERNEL, "535.309.01", "proprietary")
    assert (seen.devices, seen.kernels, seen.boot, seen.secure_boot) == ((A100,), (KERNEL,), (KERNEL,), False)
    assert seen.modules == {}
