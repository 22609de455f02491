"""The one module over NVML, NVIDIA's management library: asks everything preflight wants to know, and can record it.

NVML answers per value: any call may say NOT_SUPPORTED, NOT_FOUND, NO_PERMISSION or GPU_IS_LOST. A value without an answer is
None, and its GPU's ``errors`` names NVML's word for why; nothing here raises because a GPU is ill. What the values mean is
in the NVML API reference; the calls are those of nvidia-ml-py 13.615.71.

Runs from the standard library and pynvml alone, on Python 3.9 and later: preflight sends it to nodes that have nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MAX_GPUS = 64
MAX_PROCESSES = 64
MAX_LINKS = 36  # NVML_NVLINK_MAX_LINKS


@dataclass(frozen=True)
class Ecc:
    """Error counts: volatile since the driver was loaded, aggregate over the GPU's life."""

    volatile_corrected: int | None = None
    volatile_uncorrected: int | None = None
    aggregate_corrected: int | None = None
    aggregate_uncorrected: int | None = None


@dataclass(frozen=True)
class Remap:
    """Memory rows replaced by spares. ``failed`` means that once there was no spare left."""

    corrected: int
    uncorrected: int
    pending: bool
    failed: bool


@dataclass(frozen=True)
class Fabric:
    """NVSwitch fabric. ``state`` 3 is completed; ``status`` 0 is success and counts only then; ``health`` is NVML's bit mask."""

    state: int
    status: int
    health: int


@dataclass(frozen=True)
class Process:
    """A process that computes on the GPU; memory in bytes."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU. Modes are (current, pending), 1 is on. ``links`` are the states of NVLinks by number, 1 is active.

    ``minor`` is the number of its device file, /dev/nvidiaN; ``link_ends`` are addresses on the bus of what its NVLinks lead to.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    minor: int | None = None
    bus: str | None = None
    device: int | None = None  # PCI device identifier
    capability: tuple[int, int] | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    ecc_mode: tuple[int, int] | None = None
    ecc: Ecc = field(default_factory=Ecc)
    remap: Remap | None = None
    retired_single: int | None = None
    retired_double: int | None = None
    retired_pending: bool | None = None
    mig_mode: tuple[int, int] | None = None
    persistence: bool | None = None
    compute_mode: int | None = None
    pcie_generation: int | None = None
    pcie_max_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_width: int | None = None
    links: tuple[int, ...] = ()
    link_ends: tuple[str, ...] = ()
    fabric: Fabric | None = None
    numa_node: int | None = None
    temperature_c: int | None = None
    clock_reasons: int | None = None
    vbios: str | None = None
    gsp_firmware: str | None = None
    processes: tuple[Process, ...] | None = None
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Nvml:
    """What NVML said. ``error`` is its word when it could not be opened at all, empty otherwise.

    ``cuda`` is the CUDA version that the driver supports, 13000 for 13.0.
    """

    error: str = ""
    driver: str | None = None
    library: str | None = None
    cuda: int | None = None
    gpus: tuple[Gpu, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)


def read(library: Any) -> Nvml:
    """Ask everything.

    Args:
        library: the module pynvml, or something that answers like it.
    """
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return Nvml(error=word(error))
    try:
        asked = _Asker(library)
        driver = asked("driver", library.nvmlSystemGetDriverVersion)
        version = asked("library", library.nvmlSystemGetNVMLVersion)
        cuda = asked("cuda", library.nvmlSystemGetCudaDriverVersion_v2)
        count = asked("count", library.nvmlDeviceGetCount) or 0
        gpus = tuple(_gpu(library, index) for index in range(min(count, MAX_GPUS)))
        return Nvml("", driver, version, cuda, gpus, asked.errors)
    finally:
        with suppress(library.NVMLError):  # what was said stands
            library.nvmlShutdown()


def word(error: Exception) -> str:
    """NVML's name of an error, ``NOT_SUPPORTED`` for instance."""
    code = getattr(error, "value", -1)
    return _words().get(code, f"ERROR_{code}")


@cache
def _words() -> dict[int, str]:
    import pynvml  # noqa: PLC0415  its eight thousand lines are read only where NVML is asked

    prefix = "NVML_ERROR_"
    return {value: name[len(prefix) :] for name, value in vars(pynvml).items() if name.startswith(prefix)}


class _Asker:
    """Turns errors of single values into None and a word."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.errors: dict[str, str] = {}

    def __call__(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except self._library.NVMLError as error:
            self.errors[what] = word(error)
            return None


def _gpu(n: Any, index: int) -> Gpu:
    ask = _Asker(n)
    handle = ask("handle", n.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, errors=ask.errors)

    def get(what: str, name: str, *args: Any) -> Any:
        return ask(what, getattr(n, name), handle, *args)

    pci = get("pci", "nvmlDeviceGetPciInfo")
    memory = get("memory", "nvmlDeviceGetMemoryInfo")
    remap = get("remap", "nvmlDeviceGetRemappedRows")
    single = get(
        "retired_single", "nvmlDeviceGetRetiredPages", n.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS
    )
    double = get("retired_double", "nvmlDeviceGetRetiredPages", n.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
    links = _links(n, get)
    processes = get("processes", "nvmlDeviceGetComputeRunningProcesses")
    return Gpu(
        index=index,
        name=get("name", "nvmlDeviceGetName"),
        uuid=get("uuid", "nvmlDeviceGetUUID"),
        minor=get("minor", "nvmlDeviceGetMinorNumber"),
        bus=None if pci is None else _text(pci.busId),
        device=None if pci is None else pci.pciDeviceId >> 16,
        capability=_pair(get("capability", "nvmlDeviceGetCudaComputeCapability")),
        memory_total=None if memory is None else memory.total,
        memory_used=None if memory is None else memory.used,
        ecc_mode=_pair(get("ecc_mode", "nvmlDeviceGetEccMode")),
        ecc=_ecc(n, get),
        remap=None if remap is None else Remap(remap[0], remap[1], bool(remap[2]), bool(remap[3])),
        retired_single=None if single is None else len(single),
        retired_double=None if double is None else len(double),
        retired_pending=_bool(get("retired_pending", "nvmlDeviceGetRetiredPagesPendingStatus")),
        mig_mode=_pair(get("mig_mode", "nvmlDeviceGetMigMode")),
        persistence=_bool(get("persistence", "nvmlDeviceGetPersistenceMode")),
        compute_mode=get("compute_mode", "nvmlDeviceGetComputeMode"),
        pcie_generation=get("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration"),
        pcie_max_generation=get("pcie_max_generation", "nvmlDeviceGetMaxPcieLinkGeneration"),
        pcie_width=get("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
        pcie_max_width=get("pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth"),
        links=links,
        link_ends=_link_ends(get, len(links)),
        fabric=_fabric(n, get),
        numa_node=get("numa_node", "nvmlDeviceGetNumaNodeId"),
        temperature_c=get("temperature", "nvmlDeviceGetTemperature", n.NVML_TEMPERATURE_GPU),
        clock_reasons=get("clock_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
        vbios=get("vbios", "nvmlDeviceGetVbiosVersion"),
        gsp_firmware=_text(get("gsp_firmware", "nvmlDeviceGetGspFirmwareVersion")),
        processes=None if processes is None else tuple(_process(p) for p in processes[:MAX_PROCESSES]),
        errors=ask.errors,
    )


def _ecc(n: Any, get: Callable[..., Any]) -> Ecc:
    def count(what: str, kind: int, since: int) -> int | None:
        answer: int | None = get(what, "nvmlDeviceGetTotalEccErrors", kind, since)
        return answer

    corrected, uncorrected = n.NVML_MEMORY_ERROR_TYPE_CORRECTED, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    return Ecc(
        count("volatile_corrected", corrected, n.NVML_VOLATILE_ECC),
        count("volatile_uncorrected", uncorrected, n.NVML_VOLATILE_ECC),
        count("aggregate_corrected", corrected, n.NVML_AGGREGATE_ECC),
        count("aggregate_uncorrected", uncorrected, n.NVML_AGGREGATE_ECC),
    )


def _links(n: Any, get: Callable[..., Any]) -> tuple[int, ...]:
    """States by number; the first number that NVML does not answer for ends them."""
    states: list[int] = []
    while len(states) < MAX_LINKS:
        state = get("links", "nvmlDeviceGetNvLinkState", len(states))
        if state is None:
            break
        states.append(int(state))
    return tuple(states)


def _link_ends(get: Callable[..., Any], number: int) -> tuple[str, ...]:
    """Addresses of what the links lead to, each once: other GPUs, or switches."""
    ends = (get("link_ends", "nvmlDeviceGetNvLinkRemotePciInfo", link) for link in range(number))
    return tuple(sorted({text for end in ends if end is not None and (text := _text(end.busId))}))


def _fabric(n: Any, get: Callable[..., Any]) -> Fabric | None:
    info = n.c_nvmlGpuFabricInfo_v2_t()
    info.version = n.nvmlGpuFabricInfo_v2
    if get("fabric", "nvmlDeviceGetGpuFabricInfoV", ctypes.byref(info)) is None:
        return None
    return Fabric(int(info.state), int(info.status), int(info.healthMask))


def _process(found: Any) -> Process:
    return Process(int(found.pid), None if found.usedGpuMemory is None else int(found.usedGpuMemory))


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def _bool(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
