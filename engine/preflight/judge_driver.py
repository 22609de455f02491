"""GPUs on the bus, and whether driver, its libraries and the release agree on versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from engine.preflight import pci
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, planned, warn
from engine.preflight.facts import Facts


def devices(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The GPUs are those that the definition names."""
    if facts.pci is None:
        return
    gpus = [d for d in facts.pci if d.kind != pci.BRIDGE]
    switches = len(facts.pci) - len(gpus)
    if not gpus:
        if want.gpu:
            yield fail(
                "gpus", "there is no NVIDIA GPU in this node (nothing of vendor 10de on the PCI bus)",
                "Take the node out of the group gpu, or check that the GPU has power and is not given to a virtual machine.", supported=False,
            )  # fmt: skip
        else:
            yield good("gpus", "none, and none is needed")
        return
    if not want.gpu:
        yield good("gpus", f"{len(gpus)} x NVIDIA, and none is needed")
        return
    kinds = Counter("/".join(pci.models(d.device)) or f"10de:{d.device:04x}" for d in gpus)
    names = ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))
    allowed = set(want.gpu.models)
    strange = [d for d in gpus if allowed and not allowed & set(pci.models(d.device))]
    unknown = [d for d in strange if not pci.models(d.device)]
    if unknown:
        yield warn(
            "gpus", f"{names}: {', '.join(d.address for d in unknown)} is no GPU that is known here; the release names {', '.join(sorted(allowed))}",
            "Look the identifier up in pci.ids; when it is the right GPU, go on and watch the first start.",
        )  # fmt: skip
    elif strange:
        yield fail(
            "gpus", f"the node has {names}; the release is for {', '.join(sorted(allowed))}",
            "Use a node with these GPUs, or lock a release whose target.gpu.models names them.", supported=False,
        )  # fmt: skip
    else:
        yield good("gpus", f"{names}{f', {switches} x NVSwitch' if switches else ''}")


def nouveau(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """No other driver holds the GPUs."""
    if not facts.driver or not facts.pci or not want.gpu:
        return
    other = [m for m in ("nouveau", "nova_core") if m in facts.driver.modules]
    held = sorted({d.driver for d in facts.pci if d.driver not in ("", "nvidia", "nvidia-nvswitch")})
    if other and want.gpu.brings_driver:
        yield planned("nouveau", f"the module {other[0]} is loaded; the install keeps it out from the next start on")
    elif other:
        yield fail(
            "nouveau", f"the module {other[0]} is loaded and keeps NVIDIA's driver out",
            f"Put `blacklist {other[0]}` into /etc/modprobe.d/, run update-initramfs -u, and reboot.",
        )  # fmt: skip
    elif held:
        yield fail(
            "nouveau", f"the driver {', '.join(held)} holds a GPU" + (" (given to a virtual machine)" if "vfio-pci" in held else ""),
            "Give the GPU back to the host: remove the binding from the kernel's command line or /etc/modprobe.d/, and reboot.",
        )  # fmt: skip
    else:
        yield good("nouveau", "no other driver holds the GPUs")


def driver(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The driver is loaded, and the one that the release was locked for."""
    if not facts.driver or not facts.pci or not want.gpu:
        return
    here, need = facts.driver, want.gpu
    install = (
        f"Install driver {need.driver} (docs/compatibility.md)."
        if need.driver
        else "Install a driver that the release's CUDA supports."
    )
    if need.brings_driver and need.branch and _branch(need.driver) < need.branch:
        yield fail(
            "driver",
            f"the install brings {need.driver}; the release's CUDA {_dotted(need.cuda)} needs branch {need.branch} or newer",
            f"Build a release with a driver of branch {need.branch}, and set gpu_driver.version of the site to it.",
            supported=False,
        )
        return
    if need.brings_driver:
        if here.module_version == need.driver:
            yield good("driver", f"{here.module_version}, as the install brings it")
        else:
            now = f"the driver is {here.module_version}" if here.module_version else "none is loaded"
            yield planned("driver", f"{now}; the install brings {need.driver}")
        return
    if not here.module_version:
        yield fail(
            "driver", "no NVIDIA driver is loaded", f"{install} If it is installed: modprobe nvidia, and look at dmesg."
        )
        return
    if need.driver and here.module_version != need.driver:
        yield fail("driver", f"the driver is {here.module_version}; the release is for {need.driver}", install)
    elif need.branch and _branch(here.module_version) < need.branch:
        yield fail(
            "driver",
            f"the driver is {here.module_version}; the release's CUDA {_dotted(need.cuda)} needs branch {need.branch} or newer",
            install,
        )
    else:
        yield good("driver", f"{here.module_version}, {here.module_flavour} kernel module")
    if need.modules and here.module_flavour and need.modules != here.module_flavour:
        yield warn(
            "driver-module",
            f"the kernel module is the {here.module_flavour} one; the definition says {need.modules}",
            "Install the package of the other flavour, or correct target.gpu.kernel_modules.",
        )


def versions(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Kernel module, NVML and libcuda come from one driver, and it knows the release's CUDA."""
    if not facts.driver or not facts.pci or not facts.nvml or not want.gpu:
        return
    here, said = facts.driver, facts.nvml
    if not here.module_version or (want.gpu.brings_driver and here.module_version != want.gpu.driver):
        return  # `driver` said so
    if want.gpu.brings_driver and (said.error or here.cuda is None):
        yield planned("versions", "module and libraries are not of one version; the install brings the set")
        return
    if said.error == "LIB_RM_VERSION_MISMATCH" or (said.driver and said.driver != here.module_version):
        yield fail(
            "versions", f"the kernel module is {here.module_version}, its libraries are {said.driver or 'of another version'}: they were replaced under a running module",
            "Reboot, or stop everything on the GPUs and load the module again; then hold the packages together.",
        )  # fmt: skip
        return
    if said.error == "LIBRARY_NOT_FOUND":
        yield fail(
            "versions",
            "the driver is loaded, but NVML (libnvidia-ml.so.1) is not installed",
            "Install the driver's library package of the same version (libnvidia-ml1, libnvidia-compute).",
        )
    elif said.error:
        yield fail("versions", f"NVML cannot be asked: {said.error}", "Look at dmesg; reload the driver or reboot.")
    if here.cuda is None:
        yield fail(
            "cuda",
            f"libcuda.so.1 cannot be used: {here.cuda_error}",
            "Install the driver's CUDA package of the same version (libcuda1, libnvidia-compute).",
        )
    elif said.cuda and here.cuda != said.cuda:
        yield fail(
            "cuda",
            f"libcuda speaks CUDA {_cuda(here.cuda)}, NVML says {_cuda(said.cuda)}: two versions of the driver's libraries",
            "Remove the one that ldconfig finds first and should not: ldconfig -p | grep libcuda.",
        )
    elif want.gpu.cuda and here.cuda // 1000 < want.gpu.cuda[0]:
        yield fail(
            "cuda",
            f"the driver speaks CUDA {_cuda(here.cuda)}; the release holds CUDA {_dotted(want.gpu.cuda)}",
            "Install the driver that the release was locked for.",
        )
    else:
        yield good("cuda", f"{_cuda(here.cuda)}, module, NVML and libcuda agree" if said.cuda else _cuda(here.cuda))


def _branch(version: str) -> int:
    """580 of ``580.178.04``; 0 of what is no version."""
    head = version.split(".", maxsplit=1)[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 5 else 0


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


RULES: tuple[Rule, ...] = (devices, nouveau, driver, versions)
