"""Driver packages among themselves, fabric manager, kernel and Secure Boot."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.driver.names import driver_version, is_pinned
from installer.compat.facts import Deb, Facts, Finding, branch
from installer.compat.tables import GPUS

FABRIC = re.compile(r"^(nvidia-fabricmanager|nvidia-fabric-manager|cuda-drivers-fabricmanager)")
COMPILER = re.compile(r"^(gcc|gcc-\d+|build-essential|linux-compiler-gcc-.*)$")
IMAGE = re.compile(r"^linux-image-(?:unsigned-)?(\d.*)$")
# What installs kernel modules; where one is locked, the role nvidia_driver moves kernel and driver together.
MODULES = re.compile(r"^(nvidia-.*(dkms|modules|kmod).*|(linux-modules|modules|kmod)-.*nvidia.*)$")
PREBUILT = re.compile(r"^linux-modules-nvidia-(\d{3})(-server)?(-open)?-(\d.*)$")


def packages(facts: Facts) -> list[tuple[Deb, str]]:
    """Locked packages that are part of the driver, each with the vendor's version."""
    return [
        (deb, version)
        for deb in facts.debs
        if ("nvidia" in deb.name or is_pinned(deb.name))
        and "container" not in deb.name
        and (version := driver_version(deb.name, deb.version))
    ]


def duplicates(facts: Facts) -> Iterator[Finding]:
    """Of the set that the role pins, driver and kernel, the repository holds each package once."""
    versions: dict[str, set[str]] = {}
    for deb in facts.debs:
        if is_pinned(deb.name):
            versions.setdefault(deb.name, set()).add(deb.version)
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            yield Finding(
                "driver-versions", "failure", f"{name} is locked in the versions {', '.join(sorted(found))}; the role nvidia_driver refuses a repository with several",
                "Pin one of them in the definition with =VERSION, in every group that asks for it.",
            )  # fmt: skip


def one_version(facts: Facts) -> Iterator[Finding]:
    """All driver packages, fabric manager and NSCQ have one full version, the one the definition names."""
    gpu = facts.target.gpu
    found: dict[str, list[str]] = {}
    for deb, version in packages(facts):
        found.setdefault(version, []).append(deb.name)
    told = "; ".join(f"{v}: {', '.join(sorted(n)[:4])}{' …' if len(n) > 4 else ''}" for v, n in sorted(found.items()))
    if len(found) > 1:
        yield Finding(
            "driver-versions", "failure", f"the locked NVIDIA packages have different versions ({told}); they refuse to work together",
            "Pin every NVIDIA package in the definition with =VERSION, or lock from a source that holds one version.",
        )  # fmt: skip
    elif gpu and found and gpu.driver not in found:
        yield Finding(
            "driver-versions", "failure", f"target.gpu.driver is {gpu.driver}, the locked packages are {told}",
            "Correct target.gpu.driver, or pin the packages to it.",
        )  # fmt: skip
    if gpu and not found:
        yield Finding(
            "driver-packages", "warning", f"UNVERIFIED: the bundle holds no driver packages; that driver {gpu.driver} exists for {facts.target.kernel or 'the kernel'} of the nodes is not known, and every GPU node must already have it",
            "Add them under debs, or check the driver on the nodes before carrying.",
        )  # fmt: skip


def fabric(facts: Facts) -> Iterator[Finding]:
    """GPUs on NVSwitch have a fabric manager of exactly the driver's version."""
    if not (gpu := facts.target.gpu):
        return
    switched = [m for m in gpu.models if m in GPUS and GPUS[m].nvswitch]
    needed = gpu.nvswitch if gpu.nvswitch is not None else bool(switched)
    if gpu.fabric_manager and gpu.fabric_manager != gpu.driver:
        yield Finding(
            "fabric-manager", "failure", f"fabric manager {gpu.fabric_manager} beside driver {gpu.driver}; it stops at start when they differ",
            f"Set target.gpu.fabric_manager to {gpu.driver}.",
        )  # fmt: skip
    if needed and not gpu.fabric_manager:
        yield Finding(
            "fabric-manager", "failure", f"{', '.join(switched) or 'the GPUs'} on NVSwitch without a fabric manager: CUDA does not start there",
            f"Set target.gpu.fabric_manager to {gpu.driver} and lock its package; for boards without NVSwitch set target.gpu.nvswitch to false.",
        )  # fmt: skip
    if gpu.fabric_manager and not needed:
        yield Finding(
            "fabric-manager", "warning", "a fabric manager is named, but these GPUs have no NVSwitch; its service fails there",
            "Remove target.gpu.fabric_manager, or set target.gpu.nvswitch to true.",
        )  # fmt: skip
    if gpu.fabric_manager and packages(facts) and not any(FABRIC.match(d.name) for d in facts.debs):
        yield Finding(
            "fabric-manager", "failure", "the driver is locked, the fabric manager's package is not",
            "Add it under debs at the driver's version.",
        )  # fmt: skip


def subnet(facts: Facts) -> Iterator[Finding]:
    """Blackwell boards with NVSwitch have a subnet manager beside the fabric manager, with numbers of its own."""
    gpu = facts.target.gpu
    if not gpu or gpu.nvswitch is False or not packages(facts):
        return
    boards = [m for m in gpu.models if m in GPUS and GPUS[m].nvswitch and GPUS[m].architecture == "blackwell"]
    if boards and not any(d.name == "nvlsm" for d in facts.debs):
        yield Finding(
            "subnet-manager", "failure", f"{', '.join(boards)} on NVSwitch needs NVIDIA's subnet manager, the bundle holds the driver without it",
            "Add nvlsm under debs.",
        )  # fmt: skip


def kernel(facts: Facts) -> Iterator[Finding]:
    """Kernel, headers and modules are one set."""
    gpu, release = facts.target.gpu, facts.target.kernel
    if not gpu or not packages(facts):
        return
    if not release:
        yield Finding(
            "kernel", "warning", "the driver is locked, the kernel is not: a kernel update leaves nodes without GPU",
            "Set target.kernel to what `uname -r` prints on the nodes.",
        )  # fmt: skip
    names = {d.name for d in facts.debs}
    for image in sorted(n for n in names if IMAGE.match(n)):
        if release and release not in image:
            yield Finding(
                "kernel", "warning", f"the bundle holds {image}, target.kernel is {release}",
                "Lock the kernel that the modules are made for, and hold it.",
            )  # fmt: skip
    if release and any(MODULES.match(n) for n in names) and f"linux-image-{release}" not in names:
        yield Finding(
            "kernel", "failure", f"kernel modules are locked, linux-image-{release} is not; the role nvidia_driver installs both from the bundle alone",
            f"Add linux-image-{release} under debs.",
        )  # fmt: skip
    if gpu.module_source == "dkms":
        yield from _dkms(names, release)
    elif gpu.secure_boot == "mok":
        yield from _own_modules(facts)
    else:
        yield from _prebuilt(facts, names)


def _dkms(names: set[str], release: str | None) -> Iterator[Finding]:
    missing = []
    if "dkms" not in names:
        missing.append("dkms")
    if not any(COMPILER.match(n) for n in names):
        missing.append("gcc")
    if "make" not in names and "build-essential" not in names:
        missing.append("make")
    kernels = {release} if release else {m[1] for n in names if (m := IMAGE.match(n))}
    missing += sorted(h for k in kernels or {"…"} if (h := f"linux-headers-{k}") not in names)
    if missing:
        yield Finding(
            "dkms", "failure", f"kernel modules are built on the node, but the bundle lacks {', '.join(missing)}",
            "Add them under debs; headers must be those of target.kernel.",
        )  # fmt: skip


def _prebuilt(facts: Facts, names: set[str]) -> Iterator[Finding]:
    gpu, release = facts.target.gpu, facts.target.kernel
    if not gpu:
        return
    matches = [m for n in sorted(names) if (m := PREBUILT.match(n))]
    if not matches:
        yield Finding(
            "prebuilt-modules", "failure", "target.gpu.module_source is prebuilt, but no linux-modules-nvidia package is locked",
            f"Add linux-modules-nvidia-{branch(gpu.driver)}-server{'-open' if gpu.kernel_modules == 'open' else ''}-{release or 'KERNEL'} under debs.",
        )  # fmt: skip
        return
    if release and not any(m[4] == release for m in matches):
        yield Finding(
            "prebuilt-modules", "failure", f"the prebuilt modules are for kernel {', '.join(sorted({m[4] for m in matches}))}, target.kernel is {release}; they load on no other kernel",
            "Lock kernel and modules together.",
        )  # fmt: skip
    for match in matches:
        flavour = "open" if match[3] else "proprietary"
        if int(match[1]) != branch(gpu.driver) or flavour != gpu.kernel_modules:
            yield Finding(
                "prebuilt-modules", "failure", f"{match[0]} is {flavour} of branch {match[1]}; the definition says {gpu.kernel_modules} of branch {branch(gpu.driver)}",
                "Take the package of the same branch and flavour.",
            )  # fmt: skip


def _own_modules(facts: Facts) -> Iterator[Finding]:
    """Modules that the site signed come in a package of the site's: any name, the driver's version."""
    if not any(MODULES.match(d.name) and "dkms" not in d.name for d in facts.debs):
        yield Finding(
            "prebuilt-modules", "warning", "target.gpu.module_source is prebuilt with the site's own key, and no package of signed modules is recognised by its name",
            "Add the package that gpu_driver.module_package of the site will name under debs (docs/gpu-driver.md calls it nvidia-modules-signed).",
        )  # fmt: skip


def secure_boot(facts: Facts) -> Iterator[Finding]:
    """With Secure Boot, the modules are signed with a key that the firmware or the kernel trusts, and not on the node."""
    if not (gpu := facts.target.gpu) or gpu.secure_boot == "off":
        return
    if gpu.module_source == "dkms" and gpu.secure_boot == "signed":
        yield Finding(
            "secure-boot", "failure", "modules built on the node carry no vendor's signature; with Secure Boot the kernel refuses them",
            "Set target.gpu.module_source to prebuilt, and target.gpu.secure_boot to mok where the modules are signed with the site's key.",
        )  # fmt: skip
    elif gpu.module_source == "dkms" and packages(facts):
        yield Finding(
            "secure-boot", "failure", "modules are to be built on the node and Secure Boot is on: the site's private key never comes onto a node, so the role nvidia_driver refuses every one",
            "Sign the modules away from the nodes and set target.gpu.module_source to prebuilt (docs/gpu-driver.md), or turn Secure Boot off and set target.gpu.secure_boot to off.",
        )  # fmt: skip
    elif gpu.secure_boot == "mok":
        yield Finding(
            "secure-boot", "warning", "the site's key (MOK) is enrolled at the console of every node, once, at boot; no install can do that unattended",
            "Plan for it before the first install, or take modules that the vendor signed.",
        )  # fmt: skip
        if packages(facts) and not any(d.name == "mokutil" for d in facts.debs):
            yield Finding(
                "secure-boot", "failure", "the role nvidia_driver asks mokutil for the enrolled keys, and the bundle does not hold it", "Add mokutil under debs."
            )  # fmt: skip
