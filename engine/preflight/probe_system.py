"""Operating system, firmware and memory."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from pathlib import Path

from engine.errors import ApplianceError
from engine.preflight import reading
from engine.preflight.facts import Firmware, HugePages, Memory, System
from engine.process import run

EFI = Path("/sys/firmware/efi")
# UEFI specification 2.10, section 3.3 (global variables), and shim's README.mok for the list of the owner's keys.
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"


def system() -> System:
    """What runs here."""
    release = os_release(reading.text("/etc/os-release"))
    processor = reading.text("/proc/cpuinfo")
    return System(
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", ""),
        machine=platform.machine(),
        kernel=platform.release(),
        python=platform.python_version(),
        systemd=Path("/run/systemd/system").is_dir(),
        container=reading.text("/run/systemd/container", 64),
        root=os.geteuid() == 0,
        vector=re.search(r"\b(avx2|asimd)\b", processor) is not None,
        cpus=os.cpu_count() or 0,
        memory_bytes=_memory(reading.text("/proc/meminfo"), "MemTotal"),
    )


def os_release(text: str) -> dict[str, str]:
    """The assignments of os-release(5)."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            try:
                found[key.strip()] = "".join(shlex.split(value))
            except ValueError:  # a quote that does not end
                found[key.strip()] = value
    return found


def firmware(efi: Path = EFI) -> Firmware:
    """Secure Boot and the owner's keys. On a machine without UEFI there is neither."""
    variables = efi / "efivars"
    tool = shutil.which("mokutil", path="/usr/bin:/usr/sbin:/bin:/sbin")
    mok = (variables / f"MokListRT-{_SHIM}").exists() if variables.is_dir() else None
    return Firmware(
        efi=efi.is_dir(),
        secure_boot=_switch(variables / f"SecureBoot-{_GLOBAL}"),
        setup_mode=_switch(variables / f"SetupMode-{_GLOBAL}"),
        mok_list=mok,
        mokutil=tool is not None,
        mok_subjects=_subjects(tool) if tool and mok else (),
        lockdown=_chosen(reading.text("/sys/kernel/security/lockdown")),
    )


def memory(nodes: Path = Path("/sys/devices/system/node"), pages: Path = Path("/sys/kernel/mm")) -> Memory:
    """NUMA nodes and pages set aside."""
    huge = []
    for size in sorted((pages / "hugepages").glob("hugepages-*kB")):
        n_bytes = int(size.name[len("hugepages-") : -len("kB")]) * 1024
        huge.append(HugePages(n_bytes, reading.number(size / "nr_hugepages"), reading.number(size / "free_hugepages")))
    return Memory(
        numa_nodes=len(list(nodes.glob("node[0-9]*"))),
        huge_pages=tuple(huge),
        transparent=_chosen(reading.text(pages / "transparent_hugepage/enabled")),
    )


def _switch(variable: Path) -> bool | None:
    """A one-byte variable: efivarfs puts four bytes of attributes before it."""
    raw = reading.data(variable, 16)
    return bool(raw[4]) if raw and len(raw) == 5 else None


def _subjects(tool: str) -> tuple[str, ...]:
    try:
        said = run([tool, "--list-enrolled"], timeout_s=10).stdout
    except ApplianceError:
        return ()
    return tuple(re.findall(r"^\s*Subject: (.{1,200})$", said, re.MULTILINE)[:16])


def _chosen(text: str) -> str:
    """The word in brackets of what the kernel offers: ``none [integrity] confidentiality``."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""


def _memory(text: str, key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
