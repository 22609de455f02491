"""Facts of nodes for tests of judging: one that is well, to be changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine import nvml
from engine.preflight import facts as f
from engine.preflight.expectation import Expectation, Finding, GpuNeed, PortNeed, SpaceNeed
from engine.preflight.judge import judge
from tests.nvml_double import NvmlDouble, document

BLOBS, RELEASES = "/var/lib/appliance/blobs", "/opt/appliance/releases"


def space(path: str, **changes: Any) -> f.Space:
    return replace(f.Space(path, "/", "ext4", "254:0", 500 * 10**9, 10**7, False), **changes)


def said(name: str) -> nvml.Nvml:
    """What NVML says in a document of tests/nvml."""
    return nvml.read(NvmlDouble(document(name)["answers"]))


def pci(count: int = 8, device: int = 0x2335, switches: int = 4, **changes: Any) -> tuple[f.PciDevice, ...]:
    one = f.PciDevice("", device, 0x0302, "nvidia", 0, "32.0 GT/s PCIe", "32.0 GT/s PCIe", 16, 16)
    gpus = [replace(one, address=f"0000:{i:02x}:00.0", **changes) for i in range(count)]
    bridges = [
        replace(one, address=f"0000:f{i}:00.0", device=0x22A3, kind=0x0680, driver="nvidia-nvswitch")
        for i in range(switches)
    ]
    return (*gpus, *bridges)


def node(**changes: Any) -> f.Facts:
    """A node with eight H200 and nothing wrong."""
    good = f.Facts(
        system=f.System("ubuntu", "24.04", "Ubuntu 24.04.3 LTS", "x86_64", "6.8.0-90-generic", "3.12.3", True, "", True, True, 192, 2 << 40),
        firmware=f.Firmware(True, True, False, True, True, ("CN=Site key",), "integrity"),
        clock=f.Clock(1.8e9, 0, True, 12.5, 400, 0.2),
        storage=f.Storage((space(BLOBS), space(RELEASES)), 0, (), f.Disk("/var/lib", "ext4", 200, 0.1, 0.9, 6e9, "")),
        network=f.Network((), f.Reach("192.0.2.5:7443", "connected", ""), (f.Reach("198.51.100.1:53", "silent", ""),), False, (), ("example.com",), (), "gpu-1", ("192.0.2.21",)),
        pci=pci(),
        driver=f.Driver(("nvidia", "nvidia_uvm"), "580.178.04", "open", 13000, "", True, "running"),
        nvml=said("h200-healthy"),
        kernel_log=f.KernelLog(True, False, ()),
        memory=f.Memory(2, (f.HugePages(2 << 20, 0, 0),), "madvise"),
        seconds=2.0,
    )  # fmt: skip
    return replace(good, **changes)


def without_gpu(**changes: Any) -> f.Facts:
    """A node without any NVIDIA device, driver or library."""
    none = f.Driver((), "", "", None, "not found", False, "")
    return node(**{"pci": (), "driver": none, "nvml": said("no-driver"), **changes})


def expected(**changes: Any) -> Expectation:
    """What `node` is."""
    gpu = GpuNeed(("h200",), "580.178.04", 580, (13, 0), "open", "signed", False, True)
    want = Expectation(
        os="ubuntu-24.04", machine="x86_64", python="3.12", kernel="6.8.0-90-generic", gpu=gpu,
        spaces=(SpaceNeed(BLOBS, 200 * 10**9, "content"), SpaceNeed(RELEASES, 9 * 10**9, "runtime")),
        ports=(PortNeed(8444, "inference", ("appliance-nginx.service",)),), depot="192.0.2.5:7443",
    )  # fmt: skip
    return replace(want, **changes)


def needs_gpu(**changes: Any) -> Expectation:
    """The same with other demands of the GPUs."""
    want = expected()
    assert want.gpu
    return replace(want, gpu=replace(want.gpu, **changes))


def findings(facts: f.Facts, want: Expectation | None = None) -> list[Finding]:
    """What is not good, worst first."""
    bad = [x for x in judge(facts, want or expected()) if x.severity != "pass"]
    assert all(isinstance(x.remedy, str) and x.remedy and x.what for x in bad), "what is not good has a remedy"
    return sorted(bad, key=lambda x: x.severity != "fail")


def checks(facts: f.Facts, want: Expectation | None = None) -> list[tuple[str, str]]:
    """Check and severity of what is not good."""
    return [(x.check, x.severity) for x in findings(facts, want)]
