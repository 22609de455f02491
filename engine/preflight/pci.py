"""PCI device identifiers of NVIDIA's data center GPUs.

Sources: the PCI ID repository as Debian packages it (pci.ids 0.0~2023.04.11-1) for everything up to H100; the device filters
of NVIDIA's mig-parted (deployments/systemd/config-default.yaml, commit 1400787) for H100 NVL, H20, H200, H200 NVL, GH200,
B200, GB200 and RTX PRO 6000 Server. L40S and B300 are in neither; theirs are from the PCI ID repository's later editions,
not read again. The names are those of a definition's ``target.gpu.models``.
"""

from __future__ import annotations

DEVICES: dict[int, tuple[str, ...]] = {
    0x13F2: ("m60",),
    0x1BB3: ("p4",),
    0x1B38: ("p40",),
    0x15F7: ("p100",), 0x15F8: ("p100",), 0x15F9: ("p100",),
    0x1DB1: ("v100",), 0x1DB4: ("v100",), 0x1DB5: ("v100",), 0x1DB6: ("v100",), 0x1DB8: ("v100",), 0x1DF6: ("v100",),
    0x1EB8: ("t4",),
    0x25B6: ("a2", "a16"),
    0x2236: ("a10",),
    0x2235: ("a40",),
    0x20B7: ("a30",),
    0x20F1: ("a100-40",),
    0x20B5: ("a100-80",),
    0x20B0: ("a100-sxm-40",),
    0x20B2: ("a100-sxm-80",),
    0x27B8: ("l4",),
    0x26B5: ("l40",),
    0x26B9: ("l40s",),
    0x2330: ("h100",),
    0x2331: ("h100-pcie",),
    0x2321: ("h100-nvl",),
    0x2329: ("h20",),
    0x2335: ("h200",),
    0x233B: ("h200-nvl",),
    0x2342: ("gh200-96",),
    0x2348: ("gh200-144",),
    0x2901: ("b200",),
    0x2941: ("gb200",),
    0x3182: ("b300",),
    0x2BB5: ("rtx-pro-6000",),
}  # fmt: skip

BRIDGE = 0x0680  # class of NVSwitch: another kind of bridge


def models(device: int) -> tuple[str, ...]:
    """Names of a device; empty when it is not known here."""
    return DEVICES.get(device, ())
