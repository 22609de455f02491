"""Driver packages, fabric manager, kernel and Secure Boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine.driver.names import upstream
from installer.compat.facts import Facts
from installer.compat.tables import DCGM_PAIRS
from tests.facts import DEBS, DRIVER, GPU, KERNEL, deb, facts, found, one, with_gpu, without

PREBUILT = (*(d for d in DEBS if "dkms" not in d.name), deb(f"linux-modules-nvidia-580-server-open-{KERNEL}"))


def plus(given: Facts, *names: str, version: str = "1.0") -> Facts:
    return replace(given, debs=(*given.debs, *(deb(n, version) for n in names)))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("580.178.04-0ubuntu1", DRIVER), ("1:580.178.04-1", DRIVER), ("595.84-1", "595.84"),
        ("20220217+3~deb12u1", ""), ("1.20.0-1", ""), ("6.8.0-90.91", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_vendors_version_is_read_from_a_debian_version(version: str, expected: str) -> None:
    assert upstream(version) == expected


def test_driver_packages_of_one_version_pass() -> None:
    assert not found(facts(), "driver-versions")


def test_driver_packages_of_two_versions_are_refused_and_named() -> None:
    given = plus(without("libnvidia-nscq-580"), "libnvidia-nscq-580", version="580.105.08-1")
    one(given, "driver-versions", "failure", "libnvidia-nscq-580", "580.105.08", DRIVER)


def test_packages_of_another_driver_than_the_definition_says_are_refused() -> None:
    one(with_gpu(driver="595.84"), "driver-versions", "failure", "595.84", DRIVER)


def test_a_bundle_without_driver_packages_is_a_warning() -> None:
    one(facts(debs=()), "driver-packages", "warning", DRIVER)
    assert not found(facts(), "driver-packages")


def test_a_fabric_manager_of_the_drivers_version_passes() -> None:
    assert not found(facts(), "fabric-manager")


def test_a_fabric_manager_of_another_version_is_refused() -> None:
    one(with_gpu(fabric_manager="580.105.08"), "fabric-manager", "failure", "580.105.08", DRIVER)


def test_nvswitch_without_a_fabric_manager_is_refused() -> None:
    one(with_gpu(fabric_manager=None), "fabric-manager", "failure", "h200", "nvswitch to false")


def test_a_board_without_nvswitch_needs_no_fabric_manager() -> None:
    assert not found(with_gpu(fabric_manager=None, nvswitch=False), "fabric-manager")
    assert not found(facts({"models": ["h200-nvl"], "driver": DRIVER}), "fabric-manager")


def test_a_fabric_manager_without_nvswitch_is_a_warning() -> None:
    one(with_gpu(models=["l40s"]), "fabric-manager", "warning", "no NVSwitch")


def test_a_fabric_manager_whose_package_is_missing_is_refused() -> None:
    one(without("nvidia-fabricmanager-580"), "fabric-manager", "failure", "package is not")


def test_blackwell_boards_need_the_subnet_manager() -> None:
    one(with_gpu(models=["b200"]), "subnet-manager", "failure", "nvlsm")
    assert not found(plus(with_gpu(models=["b200"]), "nvlsm"), "subnet-manager")
    assert not found(with_gpu(models=["b200"], nvswitch=False, fabric_manager=None), "subnet-manager")
    assert not found(facts(), "subnet-manager")


def test_modules_built_on_the_node_with_all_they_need_pass() -> None:
    assert not found(facts(), "dkms")
    assert not found(facts(), "kernel")


@pytest.mark.parametrize("missing", ["dkms", "gcc", "make", f"linux-headers-{KERNEL}"])
def test_modules_built_on_the_node_without_what_that_needs_are_refused(missing: str) -> None:
    one(without(missing), "dkms", "failure", missing)


def test_without_a_pinned_kernel_the_headers_are_those_of_the_kernel_in_the_bundle() -> None:
    assert not found(replace(facts(kernel=None)), "dkms")
    swapped = plus(without(f"linux-headers-{KERNEL}"), "linux-headers-6.8.0-31-generic")
    given = replace(swapped, target=swapped.target.model_copy(update={"kernel": None}))
    one(given, "dkms", "failure", f"linux-headers-{KERNEL}")


def test_headers_of_another_kernel_do_not_count() -> None:
    one(plus(without(f"linux-headers-{KERNEL}"), "linux-headers-6.8.0-31-generic"), "dkms", "failure", KERNEL)


def test_a_kernel_that_is_not_pinned_is_a_warning() -> None:
    one(facts(kernel=None), "kernel", "warning", "target.kernel")


def test_another_kernel_in_the_bundle_is_a_warning() -> None:
    one(plus(facts(), "linux-image-6.8.0-31-generic"), "kernel", "warning", "6.8.0-31", KERNEL)


def test_prebuilt_modules_for_the_kernel_pass() -> None:
    given = facts({**GPU, "module_source": "prebuilt", "secure_boot": "signed"}, debs=PREBUILT)
    assert not found(given, "prebuilt-modules")
    assert not found(given, "secure-boot")


@pytest.mark.parametrize(
    ("package", "word"),
    [
        ("", "no linux-modules-nvidia"),
        ("linux-modules-nvidia-580-server-open-6.8.0-31-generic", "6.8.0-31-generic"),
        (f"linux-modules-nvidia-595-server-open-{KERNEL}", "branch 595"),
        (f"linux-modules-nvidia-580-server-{KERNEL}", "proprietary"),
    ],
)
def test_prebuilt_modules_for_something_else_are_refused(package: str, word: str) -> None:
    debs = PREBUILT[:-1] + ((deb(package),) if package else ())
    one(facts({**GPU, "module_source": "prebuilt"}, debs=debs), "prebuilt-modules", "failure", word)


def test_without_secure_boot_nobody_need_sign() -> None:
    assert not found(facts(), "secure-boot")


def test_modules_built_on_the_node_cannot_be_vendor_signed() -> None:
    one(with_gpu(secure_boot="signed"), "secure-boot", "failure", "mok")


def test_modules_built_on_the_node_cannot_be_signed_with_the_sites_key_either() -> None:
    one(plus(with_gpu(secure_boot="mok"), "mokutil"), "secure-boot", "failure", "never comes onto a node", "prebuilt")


def test_nodes_that_have_their_driver_already_may_have_built_and_signed_it() -> None:
    one(facts({**GPU, "secure_boot": "mok"}, debs=()), "secure-boot", "warning", "console")


SITE_SIGNED = (*(d for d in DEBS if "dkms" not in d.name), deb("nvidia-modules-signed", f"{DRIVER}-1"))
OWN_KEY = {**GPU, "module_source": "prebuilt", "secure_boot": "mok"}


def test_modules_that_the_site_signed_pass_and_their_key_is_a_warning_and_needs_its_tool() -> None:
    given = facts(OWN_KEY, debs=SITE_SIGNED)
    assert not found(given, "prebuilt-modules")
    assert [f.severity for f in found(given, "secure-boot")] == ["failure", "warning"]
    one(plus(given, "mokutil"), "secure-boot", "warning", "console")


def test_the_sites_own_key_without_a_package_of_modules_is_a_warning() -> None:
    one(facts(OWN_KEY, debs=SITE_SIGNED[:-1]), "prebuilt-modules", "warning", "gpu_driver.module_package")


@pytest.mark.parametrize("name", ["libnvidia-compute-580", f"linux-image-{KERNEL}"])
def test_a_package_of_the_set_in_two_versions_is_refused_as_the_role_refuses_it(name: str) -> None:
    given = plus(facts(), name, version=f"{DRIVER}-0ubuntu2")
    first = found(given, "driver-versions")[0]
    assert first.severity == "failure"
    assert name in first.what
    assert "=VERSION" in first.remedy


@pytest.mark.parametrize("name", ["libnvcuvid1", "libcudadebugger1", "libegl-nvidia0", "firmware-nvidia-gsp"])
def test_every_package_that_the_role_moves_with_the_driver_is_compared(name: str) -> None:
    one(plus(facts(), name, version="550.163.01-2"), "driver-versions", "failure", name)


def test_modules_without_their_kernel_are_refused_as_the_role_refuses_them() -> None:
    one(without(f"linux-image-{KERNEL}"), "kernel", "failure", f"linux-image-{KERNEL}")
    only_libraries = tuple(d for d in DEBS if "dkms" not in d.name and not d.name.startswith("linux-image"))
    assert not found(facts(debs=only_libraries), "kernel")


METRICS = (
    *(deb(f"datacenter-gpu-manager-4-{part}", "1:4.6.0-1") for part in ("core", "proprietary", "cuda13")),
    deb("datacenter-gpu-manager-exporter", "4.8.3-1"),
)


def test_dcgm_and_its_exporter_of_a_known_pair_pass() -> None:
    assert not found(facts(debs=(*DEBS, *METRICS)), "dcgm")
    assert not found(facts(debs=(*DEBS, *METRICS[:-1])), "dcgm"), "DCGM alone is the site's own affair"


@pytest.mark.parametrize("missing", range(3))
def test_an_exporter_without_a_part_of_dcgm_is_refused_as_the_role_refuses_it(missing: int) -> None:
    debs = tuple(d for i, d in enumerate(METRICS) if i != missing)
    one(facts(debs=(*DEBS, *debs)), "dcgm", "failure", METRICS[missing].name)


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("datacenter-gpu-manager-exporter", "4.8.2-1", "DCGM 4.6.0 and exporter 4.8.2"),
        ("datacenter-gpu-manager-4-core", "1:4.5.3-1", "DCGM 4.5.3 and 4.6.0"),
    ],
)
def test_dcgm_and_an_exporter_that_are_no_pair_are_refused(name: str, version: str, told: str) -> None:
    debs = tuple(deb(name, version) if d.name == name else d for d in METRICS)
    one(facts(debs=(*DEBS, *debs)), "dcgm", "failure", told, "DCGM 4.6.0 with exporter 4.8.3")


def test_the_role_knows_the_same_pairs() -> None:
    role = Path(__file__).resolve().parents[2] / "roles/dcgm_exporter/vars/main.yml"
    assert yaml.safe_load(role.read_text())["appliance_dcgm_exporter_pairs"] == DCGM_PAIRS
