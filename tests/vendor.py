"""Packages of NVIDIA's and Ubuntu's archives for archives on loopback: real names, and versions and dependencies where a source is known.

A DOUBLE: the packages are empty. Neither archive can be reached where the tests run, so nothing here says that the vendors have these
packages today; it says that a definition that names them is locked as one set, and what happens when it is not.

Sources, read in 2026:
    docs.nvidia.com, driver installation guide 590 to 620     names for computing without a display on Debian; the open modules' package
    docs.nvidia.com, fabric manager user guide                fabric manager and NSCQ have the driver's full version
    packages.ubuntu.com, linux-modules-nvidia-580-server-open one package for a kernel and a driver, which it depends on
    docs.nvidia.com, DCGM 4                                   datacenter-gpu-manager-4-*; the exporter that goes with it (4.6.0, 4.8.3)
    NVIDIA/cloud-native-docs                                  nvidia-container-toolkit-base 1.20.0
Assumed: revisions after the hyphen, dependencies between DCGM's packages, and everything about packages that are no driver's.
"""

from __future__ import annotations

from dataclasses import dataclass

DRIVER = "580.178.04"
OTHER_DRIVER = "595.84"  # a newer one that the archive has, too


@dataclass(frozen=True)
class Deb:
    """A package: name, version, and its Depends field."""

    name: str
    version: str
    depends: str = ""


def _driver_of_debian(version: str) -> tuple[Deb, ...]:
    """NVIDIA's archive for Debian 13, one driver."""
    same = f"{version}-1"
    return (
        Deb("nvidia-kernel-open-dkms", same, "dkms"),
        Deb("nvidia-driver-cuda", same, f"libcuda1 (>= {same}), libnvidia-ml1 (>= {same}), nvidia-persistenced"),
        Deb("libcuda1", same),
        Deb("libnvidia-ml1", same),
        Deb("nvidia-persistenced", same),
        Deb("nvidia-fabricmanager", same),
        Deb("libnvidia-nscq", same),
    )


TOOLS = (
    Deb("datacenter-gpu-manager-4-core", "1:4.6.0-1"),
    Deb("datacenter-gpu-manager-4-proprietary", "1:4.6.0-1", "datacenter-gpu-manager-4-core (= 1:4.6.0-1)"),
    Deb("datacenter-gpu-manager-4-cuda13", "1:4.6.0-1", "datacenter-gpu-manager-4-core (= 1:4.6.0-1)"),
    Deb("datacenter-gpu-manager-exporter", "4.8.3-1", "datacenter-gpu-manager-4-core"),
    Deb("nvidia-container-toolkit-base", "1.20.0-1"),
)
DEBIAN = (*_driver_of_debian(DRIVER), *_driver_of_debian(OTHER_DRIVER), *TOOLS)


def ubuntu_driver(kernel: str, revision: str = "0ubuntu0.24.04.1") -> tuple[Deb, ...]:
    """The driver in Ubuntu 24.04's own archive: signed modules for one kernel, and the same version of everything else."""
    same = f"{DRIVER}-{revision}"
    return (
        Deb(f"linux-image-{kernel}", "6.8.0-134.134"),
        Deb(f"linux-modules-nvidia-580-server-open-{kernel}", "6.8.0-134.134",
            f"linux-image-{kernel}, nvidia-kernel-common-580-server (>= {DRIVER})"),
        Deb("nvidia-kernel-common-580-server", same),
        Deb("libnvidia-compute-580-server", same),
        Deb("nvidia-utils-580-server", same, f"libnvidia-compute-580-server (= {same})"),
        Deb("nvidia-compute-utils-580-server", same, f"libnvidia-compute-580-server (= {same})"),
        Deb("nvidia-fabricmanager-580", same),
        Deb("libnvidia-nscq-580", same),
    )  # fmt: skip
