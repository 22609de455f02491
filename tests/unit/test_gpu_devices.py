"""Device files of the GPUs: which there are, by what the driver says of itself, and made for real."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
import yaml

from engine.errors import ResourceError
from engine.gpu import cli, devices
from engine.gpu.devices import Device

# As the driver's own documents describe the files; written by hand, not recorded.
DEVICES = """\
Character devices:
  1 mem
195 nvidia
195 nvidiactl
234 nvidia-nvswitch
236 nvidia-caps
510 nvidia-uvm

Block devices:
  8 sd
510 nvidia-uvm-not-this
"""


def tree(base: Path, gpus: int = 2, devices_text: str = DEVICES) -> Path:
    """A /proc with a driver that has started so many GPUs; the first has one slice."""
    proc = base / "proc"
    for n in range(gpus):
        place = proc / f"driver/nvidia/gpus/0000:{n:02x}:00.0"
        place.mkdir(parents=True)
        place.joinpath("information").write_text(
            f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 40\nDevice Minor: \t {n}\nGPU Excluded:\t No\n"
        )
    for path, minor, mode in (
        ("mig/config", 1, 256),
        ("mig/monitor", 2, 292),
        ("gpu0/mig/gi1/access", 30, 292),
        ("gpu0/mig/gi1/ci0/access", 31, 292),
    ):
        file = proc / "driver/nvidia/capabilities" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n")
    (proc / "devices").write_text(devices_text)
    return proc


def bus(base: Path, gpus: int = 2, switches: int = 1) -> Path:
    """A PCI bus with GPUs (3D controllers) and NVSwitches (bridges), as sysfs shows them."""
    for n in range(gpus + switches):
        place = base / "pci" / f"0000:{n:02x}:00.0"
        place.mkdir(parents=True)
        place.joinpath("vendor").write_text("0x10de\n")
        place.joinpath("device").write_text("0x2335\n")
        place.joinpath("class").write_text("0x030200\n" if n < gpus else "0x068000\n")
    return base / "pci"


def test_every_device_that_cuda_and_slices_need_is_found_with_its_numbers(tmp_path: Path) -> None:
    seen = devices.look(tree(tmp_path))
    assert seen == devices.Seen(
        (
            Device("nvidiactl", 195, 255, 0o666), Device("nvidia0", 195, 0, 0o666), Device("nvidia1", 195, 1, 0o666),
            Device("nvidia-uvm", 510, 0, 0o666), Device("nvidia-uvm-tools", 510, 1, 0o666),
            Device("nvidia-caps/nvidia-cap1", 236, 1, 0o400), Device("nvidia-caps/nvidia-cap2", 236, 2, 0o444),
            Device("nvidia-caps/nvidia-cap30", 236, 30, 0o444), Device("nvidia-caps/nvidia-cap31", 236, 31, 0o444),
        ),
        2, (),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (DEVICES.replace("195 nvidia\n", "195 nvidia-frontend\n").replace("195 nvidiactl\n", ""), ()),
        (DEVICES.replace("510 nvidia-uvm\n", "", 1), ("the module nvidia_uvm",)),
        ("", ("the module nvidia", "the module nvidia_uvm")),
        ("Character devices:\nxx nvidia\n195 nvidia extra\n", ("the module nvidia", "the module nvidia_uvm")),
    ],
)
def test_what_the_driver_does_not_show_yet_is_named(tmp_path: Path, text: str, missing: tuple[str, ...]) -> None:
    assert devices.look(tree(tmp_path, devices_text=text)).missing == missing


def test_devices_are_made_with_number_and_mode_and_the_second_time_nothing_changes(tmp_path: Path) -> None:
    proc, dev = tree(tmp_path), tmp_path / "dev"
    dev.mkdir()
    loaded: list[str] = []
    made = cli.ensure(0, proc, dev, bus(tmp_path), loaded.append)
    assert loaded == ["nvidia", "nvidia_uvm"]
    assert made == [d.path for d in devices.look(proc).devices]
    for device in devices.look(proc).devices:
        found = (dev / device.path).lstat()
        assert stat.S_ISCHR(found.st_mode)
        assert (os.major(found.st_rdev), os.minor(found.st_rdev), stat.S_IMODE(found.st_mode)) == (
            device.major,
            device.minor,
            device.mode,
        )
    assert cli.ensure(0, proc, dev, tmp_path / "pci", loaded.append) == []


def test_another_number_after_a_reload_and_a_wrong_mode_are_corrected(tmp_path: Path) -> None:
    proc, dev = tree(tmp_path), tmp_path / "dev"
    dev.mkdir()
    cli.ensure(0, proc, dev, bus(tmp_path), lambda module: None)
    (proc / "devices").write_text(DEVICES.replace("510 nvidia-uvm\n", "511 nvidia-uvm\n", 1))
    (dev / "nvidia0").chmod(0o600)
    assert cli.ensure(0, proc, dev, tmp_path / "pci", lambda module: None) == [
        "nvidia0",
        "nvidia-uvm",
        "nvidia-uvm-tools",
    ]
    assert os.major((dev / "nvidia-uvm").lstat().st_rdev) == 511


def test_what_is_no_device_in_its_place_is_refused_and_left(tmp_path: Path) -> None:
    proc, dev = tree(tmp_path), tmp_path / "dev"
    dev.mkdir()
    (dev / "nvidia-uvm").symlink_to("/etc/passwd")
    with pytest.raises(ResourceError, match="this is not a device"):
        cli.ensure(0, proc, dev, bus(tmp_path), lambda module: None)
    assert (dev / "nvidia-uvm").is_symlink()


def test_a_driver_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    proc, dev = tree(tmp_path, gpus=1), tmp_path / "dev"
    dev.mkdir()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            place = proc / "driver/nvidia/gpus/0000:01:00.0"
            place.mkdir()
            place.joinpath("information").write_text("Device Minor: 1\n")

    assert "nvidia1" in cli.ensure(600, proc, dev, bus(tmp_path), lambda module: None, pause)
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("gpus", "text", "said"),
    [
        (1, DEVICES, "did not bring up 1 of 2 GPUs within 0 s"),
        (2, DEVICES.replace("510 nvidia-uvm\n", "", 1), "did not bring up the module nvidia_uvm within"),
        (0, "", "the module nvidia and the module nvidia_uvm and 2 of 2 GPUs"),
    ],
)
def test_a_driver_that_does_not_come_is_named_with_what_was_waited_for(
    tmp_path: Path, gpus: int, text: str, said: str
) -> None:
    with pytest.raises(ResourceError, match=said):
        cli.ensure(0, tree(tmp_path, gpus=gpus, devices_text=text), tmp_path, bus(tmp_path), lambda module: None)


def test_a_node_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no NVIDIA GPU"):
        cli.ensure(0, tree(tmp_path), tmp_path, bus(tmp_path, gpus=0), lambda module: None)


ROLES = Path(__file__).parents[2] / "roles"


def test_every_unit_that_opens_gpus_comes_after_their_device_files_and_is_a_client_of_mig() -> None:
    """A unit that is allowed NVIDIA's devices waits for the unit that makes them, and MIG stops it while it divides the GPUs."""
    clients = yaml.safe_load((ROLES / "mig/defaults/main.yml").read_text())["appliance_mig_clients"]
    users = {
        p: p.read_text()
        for p in ROLES.rglob("templates/*")
        if p.is_file() and "DeviceAllow=char-nvidia" in p.read_text()
    }
    assert {p.name for p in users} == {"instance.conf.j2", "appliance-dcgm.service.j2", "limits.j2"}, (
        "a new one is a client of MIG, too"
    )
    assert {"appliance-vllm@*.service", "appliance-dcgm.service"} <= set(clients)
    assert "appliance-container-" in (ROLES / "mig/tasks/divide.yml").read_text()
    for path, text in users.items():
        if path.name == "limits.j2":  # containers: their description of the GPUs comes first, and that waits
            for unit in ("container.service.j2", "container.container.j2"):
                assert "After=appliance-cdi.service" in path.with_name(unit).read_text()
        waits = path.with_name("appliance-cdi.service.j2").read_text() if path.name == "limits.j2" else text
        assert re.search(r"^After=.*appliance-gpu-devices\.service", waits, re.MULTILINE), path
        assert "Wants=appliance-gpu-devices.service" in waits, path
    unit = (ROLES / "gpu_devices/templates/appliance-gpu-devices.service.j2").read_text()
    assert all(
        u in unit for u in ("nvidia-persistenced.service", "nvidia-fabricmanager.service", "appliance-mig.service")
    )
