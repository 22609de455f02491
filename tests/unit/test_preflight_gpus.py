"""GPUs, drivers and their faults, as NVML documents tell them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.preflight import facts as f
from engine.preflight import pci as table
from engine.preflight.judge import FIXABLE, READY, UNSUPPORTED, judge, reboots, verdict
from engine.preflight.xid import XIDS, meaning
from installer.cli.preflight import alike
from installer.compat.tables import GPUS
from tests.nodefacts import checks, expected, findings, needs_gpu, node, pci, said, without_gpu

DRIVER = f.Driver(("nvidia", "nvidia_uvm"), "580.178.04", "open", 13000, "", True, "running")


def test_eight_healthy_h200_are_ready_and_every_check_says_so() -> None:
    found = judge(node(), expected())
    assert verdict(found) == READY
    assert findings(node()) == []
    said_of = {x.check: x.what for x in found}
    assert said_of["gpus"] == "8 x h200, 4 x NVSwitch"
    assert said_of["driver"] == "580.178.04, open kernel module"
    assert said_of["gpu-memory"] == "8 x NVIDIA H200 with 140 GiB"
    assert {"ecc", "memory-rows", "pcie", "mig", "nvlink", "fabric", "xid", "persistence"} <= said_of.keys()


def test_uncorrectable_errors_and_waiting_rows_are_told_apart_from_old_ones() -> None:
    found = findings(node(nvml=said("h200-ecc")))
    assert [(x.check, x.severity, x.what[:5]) for x in found] == [
        ("ecc", "fail", "GPU 3"),
        ("memory-rows", "fail", "GPU 3"),
        ("memory-rows", "fail", "GPU 6"),
        ("ecc", "warn", "GPU 5"),
    ]
    assert "2 uncorrectable" in found[0].what
    assert "waits for a reset" in found[1].what and "--gpu-reset" in found[1].remedy
    assert "spares are used up" in found[2].what and "replaced" in found[2].remedy


def test_missing_lanes_fail_and_a_slow_link_matters_only_under_load() -> None:
    found = findings(node(nvml=said("h200-pcie-x8")))
    assert (found[0].check, found[0].severity) == ("pcie", "fail")
    assert "GPU 1 (00000000:3B:00.0): the link has 8 of 16 lanes" in found[0].what
    slow = [x for x in found if "generation" in x.what]
    assert [x.what[:5] for x in slow] == ["GPU 2"], "GPU 4 is at rest, where links slow down"
    assert any(x.check == "busy" and "4242" in x.what for x in found)


def test_lanes_are_seen_without_a_driver_and_the_fabric_manager_must_run_with_one() -> None:
    bare = replace(DRIVER, module_version="", cuda=None, fabric_manager="")
    narrow = findings(node(driver=bare, nvml=said("no-driver"), pci=pci(width=8)))
    assert {x.check for x in narrow} == {"driver", "pcie"} and "8 of 16 lanes" in narrow[1].what
    stopped = node(driver=replace(DRIVER, fabric_manager=""))
    assert checks(stopped) == [("fabric-manager", "fail")]
    assert checks(stopped, needs_gpu(nvswitch=False)) == []


def test_mig_is_compared_with_what_the_release_wants() -> None:
    whole = findings(node(nvml=said("h200-mig")))
    assert {x.check for x in whole} == {"mig"}
    assert "waits for a reset" in whole[0].what
    assert sum("MIG is on; the release wants whole GPUs" in x.what for x in whole) == 7
    instances = findings(node(nvml=said("h200-mig")), needs_gpu(mig=True))
    assert [x.what[:5] for x in instances] == ["GPU 0"]
    assert "nvidia-smi -mig 1" in findings(node(), needs_gpu(mig=True))[0].remedy


def test_an_unfinished_fabric_and_dead_links_fail_only_on_boards_with_switches() -> None:
    found = findings(node(nvml=said("h200-fabric")))
    fabric = [x for x in found if x.check == "fabric"]
    assert sum("is in progress" in x.what for x in fabric) == 6
    assert any("failed with 999" in x.what for x in fabric)
    assert any("not healthy (mask 0x11)" in x.what for x in fabric)
    assert [x.what for x in found if x.check == "nvlink"] == [
        "GPU 7 (00000000:DB:00.0): 2 of 18 NVLinks are down (numbers 4, 5)"
    ]
    assert findings(node(nvml=said("h200-fabric")), needs_gpu(nvswitch=False)) == []


def test_a_lost_gpu_is_named_and_the_others_are_still_judged() -> None:
    found = [x for x in findings(node(nvml=said("h200-lost"))) if x.check == "gpu-answers"]
    assert [x.what for x in found] == [
        "GPU 2 (no address): NVML says GPU_IS_LOST",
        "GPU 4 (no address): NVML says GPU_IS_LOST",
    ]


@pytest.mark.parametrize(
    ("driver", "nvml", "what", "remedy"),
    [
        ({}, "mismatch", "libraries are of another version", "Reboot"),
        ({"module_version": "580.95.05"}, "h200-healthy", "is 580.95.05, its libraries are 580.178.04", "Reboot"),
        ({}, "no-driver", "NVML (libnvidia-ml.so.1) is not installed", "libnvidia-compute"),
        ({"cuda": None, "cuda_error": "not found"}, "h200-healthy", "libcuda.so.1 cannot be used: not found", "Install"),
        ({"cuda": 12080}, "h200-healthy", "libcuda speaks CUDA 12.8, NVML says 13.0", "ldconfig"),
    ],
)  # fmt: skip
def test_versions_that_disagree_are_named(driver: dict[str, object], nvml: str, what: str, remedy: str) -> None:
    facts = node(driver=replace(DRIVER, **driver), nvml=said(nvml))  # type: ignore[arg-type]
    found = [x for x in findings(facts) if x.check in ("versions", "cuda")]
    assert len(found) == 1 and found[0].severity == "fail"
    assert what in found[0].what and remedy in found[0].remedy


def test_a_node_without_gpu_is_not_supported_where_one_is_needed_and_fine_elsewhere() -> None:
    found = judge(without_gpu(), expected())
    assert verdict(found) == UNSUPPORTED
    gpu = next(x for x in found if x.check == "gpus")
    assert "there is no NVIDIA GPU in this node" in gpu.what and not gpu.supported
    assert findings(without_gpu(), expected(gpu=None)) == []


def test_gpus_that_nobody_needs_are_not_judged() -> None:
    """A gateway may have a card of its own; nothing is asked of it."""
    broken = replace(
        DRIVER, modules=("nouveau",), module_version="", cuda=None, persistence_daemon=False, fabric_manager=""
    )
    ill = node(driver=broken, nvml=said("h200-ecc"), kernel_log=f.KernelLog(True, False, (f.Xid(79, "0", 1.0, ""),)))
    assert findings(ill, expected(gpu=None)) == []
    assert len(findings(ill)) > 4


def test_a_gpu_without_a_driver_is_fixable_and_names_the_driver() -> None:
    bare = replace(DRIVER, modules=(), module_version="", module_flavour="", cuda=None)
    found = judge(node(driver=bare, nvml=said("no-driver"), pci=pci(driver="")), expected())
    assert verdict(found) == FIXABLE
    bad = [x for x in found if x.severity == "fail"]
    assert [x.what for x in bad] == ["no NVIDIA driver is loaded"]
    assert "Install driver 580.178.04" in bad[0].remedy


def test_another_driver_than_locked_fails_with_the_one_to_install() -> None:
    other = node(driver=replace(DRIVER, module_version="550.163.01", cuda=12040), nvml=replace(said("h200-healthy"), driver="550.163.01", cuda=12040))  # fmt: skip
    assert {"driver", "cuda"} == {x.check for x in findings(other)}
    odd = node(driver=replace(DRIVER, module_version="custom"), nvml=replace(said("h200-healthy"), driver="custom"))
    assert "the driver is custom" in findings(odd, needs_gpu(driver=""))[0].what
    unnamed = findings(other, needs_gpu(driver=""))
    assert "CUDA 13.0 needs branch 580 or newer" in unnamed[0].what


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        (node(driver=replace(DRIVER, modules=("nouveau",))), "the module nouveau is loaded"),
        (node(pci=pci(driver="vfio-pci")), "vfio-pci holds a GPU (given to a virtual machine)"),
    ],
)
def test_another_driver_on_the_gpu_is_named(facts: f.Facts, what: str) -> None:
    found = [x for x in findings(facts) if x.check == "nouveau"]
    assert len(found) == 1 and found[0].severity == "fail" and what in found[0].what


def test_other_gpus_than_locked_are_not_supported_and_unknown_ones_are_a_warning() -> None:
    a100 = judge(node(pci=pci(device=0x20B2)), expected())
    assert verdict(a100) == UNSUPPORTED
    assert "8 x a100-sxm-80; the release is for h200" in next(x.what for x in a100 if x.check == "gpus")
    unknown = findings(node(pci=pci(device=0xFFFF)))
    assert [(x.check, x.severity) for x in unknown] == [("gpus", "warn")]


def test_fewer_gpus_in_nvml_than_on_the_bus_fail() -> None:
    assert [x.what for x in findings(node(pci=pci(count=9)))] == ["9 GPUs are on the bus, NVML knows 8"]
    assert ("gpu-count", "fail") in checks(node(nvml=said("no-gpu")))


def test_fatal_xids_fail_watched_ones_warn_and_those_of_programs_pass() -> None:
    def log(*codes: int) -> f.Facts:
        return node(kernel_log=f.KernelLog(True, False, tuple(f.Xid(c, "0000:19:00", 1.0, "") for c in codes)))

    assert checks(log(79)) == [("xid", "fail")]
    assert "fallen off the bus" in findings(log(79))[0].what
    assert checks(log(63, 63)) == [("xid", "warn")]
    assert "2 times" in findings(log(63, 63))[0].what
    assert checks(log(13, 31, 43)) == []
    assert checks(log(9999)) == [("xid", "warn")]
    assert checks(node(kernel_log=f.KernelLog(False, False, ()))) == [("xid", "warn")]
    assert all(m.remedy and m.what for m in XIDS.values())
    assert meaning(48).weight == meaning(95).weight == meaning(74).weight == "fatal"


def test_every_model_of_a_definition_has_a_pci_identifier_and_the_other_way_round() -> None:
    assert {name for names in table.DEVICES.values() for name in names} == set(GPUS)


def test_persistence_off_without_the_daemon_is_a_warning() -> None:
    healthy = said("h200-healthy")
    off = replace(healthy, gpus=tuple(replace(g, persistence=False) for g in healthy.gpus))
    assert checks(node(nvml=off)) == []
    assert checks(node(nvml=off, driver=replace(DRIVER, persistence_daemon=False))) == [("persistence", "warn")]


def test_retired_pages_of_older_gpus_count() -> None:
    healthy = said("h200-healthy")

    def with_first(**changes: object) -> f.Facts:
        return node(nvml=replace(healthy, gpus=(replace(healthy.gpus[0], **changes), *healthy.gpus[1:])))  # type: ignore[arg-type]

    assert checks(with_first(retired_pending=True)) == [("memory-rows", "fail")]
    assert checks(with_first(retired_single=58, retired_double=2)) == [("memory-rows", "fail")]
    assert checks(with_first(retired_double=1)) == [("memory-rows", "warn")]
    assert checks(with_first(clock_reasons=0x40)) == [("heat", "warn")]
    assert checks(with_first(ecc_mode=(0, 0))) == [("ecc", "warn")]
    assert checks(with_first(compute_mode=2)) == [("busy", "fail")]


def test_what_is_said_of_several_gpus_is_one_line_and_nothing_else_is_merged() -> None:
    found = findings(node(nvml=said("h200-fabric")))
    lines = alike(found)
    texts = [x.what for x in lines if x.check == "fabric"]
    assert texts[0] == "GPUs 0, 1, 2, 3, 4, 7: the GPU's registration with the NVSwitch fabric is in progress"
    assert len(texts) == 3 and sum(x.check == "fabric" for x in found) == 8
    assert [x for x in lines if x.check != "fabric"] == [x for x in found if x.check != "fabric"]


BROUGHT = {"brings_driver": True, "secure_boot": "", "nvswitch": False}
BARE = {
    "module_version": "",
    "cuda": None,
    "cuda_error": "not found",
    "modules": (),
    "persistence_daemon": False,
    "fabric_manager": "",
}


@pytest.mark.parametrize(
    ("driver", "nvml", "kernel", "planned"),
    [
        (BARE, "no-driver", "6.8.0-90-generic", ["driver"]),
        ({**BARE, "modules": ("nouveau",)}, "no-driver", "6.8.0-90-generic", ["nouveau", "driver"]),
        (BARE, "no-driver", "6.1.0-40-amd64", ["kernel", "driver"]),
        ({"module_version": "570.86.15", "cuda": 12080}, "h200-healthy", "6.8.0-90-generic", ["driver"]),
        ({}, "mismatch", "6.8.0-90-generic", ["versions"]),
        ({}, "h200-healthy", "6.8.0-90-generic", []),
    ],
)  # fmt: skip
def test_a_driver_that_the_install_brings_is_planned_and_not_missed(
    driver: dict[str, object], nvml: str, kernel: str, planned: list[str]
) -> None:
    """A fresh node, another driver, libraries under a running module: ready, and the node restarts. What is there already stays."""
    facts = node(driver=replace(DRIVER, **driver), nvml=said(nvml))  # type: ignore[arg-type]
    assert facts.system
    facts = replace(facts, system=replace(facts.system, kernel=kernel))
    want = replace(needs_gpu(**BROUGHT), kernel="6.8.0-90-generic")
    found = judge(facts, want)
    assert [x for x in found if x.severity == "fail"] == []
    assert [x.check for x in found if x.reboot] == planned
    assert verdict(found) == READY
    assert reboots(found) is bool(planned)
    if planned:
        without = judge(facts, replace(want, gpu=replace(want.gpu, brings_driver=False)))  # type: ignore[type-var]
        assert verdict(without) != READY, "without the install's driver the same node is refused"


def test_what_an_install_cannot_bring_is_refused_with_its_driver_too() -> None:
    """Hardware, a virtual machine's hold, and a driver that is too old for the release's CUDA."""
    want = needs_gpu(**BROUGHT)
    assert verdict(judge(without_gpu(), want)) == UNSUPPORTED
    narrow = judge(node(driver=replace(DRIVER, **BARE), nvml=said("no-driver"), pci=pci(width=8)), want)  # type: ignore[arg-type]
    assert {x.check for x in narrow if x.severity == "fail"} == {"pcie"}
    old = replace(want, gpu=replace(want.gpu, driver="550.163.01", branch=580))  # type: ignore[type-var]
    [refused] = [x for x in judge(node(), old) if x.severity == "fail"]
    assert refused.what == "the install brings 550.163.01; the release's CUDA 13.0 needs branch 580 or newer"
    assert not refused.supported


def test_gpus_that_the_install_divides_are_not_refused_for_what_they_are_now() -> None:
    assert findings(node(nvml=said("h200-mig")), needs_gpu(mig=True, brings_mig=True)) == []
    assert findings(node(), needs_gpu(mig=True, brings_mig=True)) == []
