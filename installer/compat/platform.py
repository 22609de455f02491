"""Files against the operating system, processor and Python of the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from installer.compat.facts import Facts, Finding, Wheel
from installer.compat.tables import DEB_ARCH
from installer.kinds.uvresolve import GLIBC_MINOR, OS_PYTHON, tags

MANYLINUX = re.compile(r"^manylinux_2_(\d+)_(.+)$")
OLDEST_PYTHON = (3, 11)
LEGACY = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


def floor(platform: str) -> tuple[int, str] | None:
    """(glibc 2.N, processor) that a platform tag asks for; None when it is not one for glibc."""
    if match := MANYLINUX.match(platform):
        return int(match[1]), match[2]
    name, _, arch = platform.partition("_")
    return (LEGACY[name], arch) if name in LEGACY else None


def wheels(facts: Facts) -> Iterator[Finding]:
    """Every wheel loads on the target: its Python, its processor, its glibc (PEP 425, PEP 600)."""
    fitting = {(t.interpreter, t.abi, t.platform) for t in tags(facts.target)}
    pythons = {(interpreter, abi) for interpreter, abi, _ in fitting}
    for wheel in facts.wheels:
        if not fitting.intersection(wheel.tags):
            yield _why(facts, wheel, pythons)


def _why(facts: Facts, wheel: Wheel, pythons: set[tuple[str, str]]) -> Finding:
    target = facts.target
    label = f"{wheel.group}: {wheel.name} {wheel.version}"
    if not wheel.tags:
        return Finding("wheel-name", "failure", f"{label} is not named as a wheel is", "Lock again.")
    right_python = [t for t in wheel.tags if (t[0], t[1]) in pythons]
    if not right_python:
        told = ", ".join(sorted({f"{i}-{a}" for i, a, _ in wheel.tags}))
        return Finding(
            "wheel-python", "failure", f"{label} is built for {told}, the nodes run CPython {target.python}",
            "Lock again for this Python, or correct target.python.",
        )  # fmt: skip
    floors = [f for _, _, p in right_python if (f := floor(p))]
    if needs := [n for n, arch in floors if arch == target.arch]:
        return Finding(
            "wheel-glibc", "failure",
            f"{label} needs glibc 2.{min(needs)}, {target.os} has 2.{GLIBC_MINOR[target.os]}",
            "Pin an older version of it, or choose a newer operating system.",
        )  # fmt: skip
    told = ", ".join(sorted({p for _, _, p in right_python}))
    return Finding(
        "wheel-architecture", "failure", f"{label} is built for {told}, the nodes are {target.arch} Linux with glibc",
        "Lock again for this processor, or correct target.arch.",
    )  # fmt: skip


def supported(facts: Facts) -> Iterator[Finding]:
    """The engine runs on nodes with their own Python: 3.11 or newer (pyproject.toml, requires-python)."""
    own = OS_PYTHON[facts.target.os].rpartition(".")[0]
    if tuple(map(int, own.split("."))) < OLDEST_PYTHON:
        yield Finding(
            "os-support", "failure", f"{facts.target.os} is not supported: its own CPython is {own}, and what runs on nodes needs {'.'.join(map(str, OLDEST_PYTHON))}",
            "Take nodes with ubuntu-24.04 (docs/platforms.md).",
        )  # fmt: skip


def debs(facts: Facts) -> Iterator[Finding]:
    """Every Debian package is for the target's processor."""
    wanted = DEB_ARCH[facts.target.arch]
    strange = sorted(f"{d.name}:{d.arch}" for d in facts.debs if d.arch not in (wanted, "all"))
    if strange:
        yield Finding(
            "deb-architecture", "failure", f"{', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}: the nodes are {wanted}",
            "Lock again, or correct target.arch.",
        )  # fmt: skip


def python(facts: Facts) -> Iterator[Finding]:
    """The Python that wheels are for comes with the operating system."""
    own = OS_PYTHON[facts.target.os].rpartition(".")[0]
    if facts.wheels and facts.target.python != own:
        yield Finding(
            "os-python", "warning", f"{facts.target.os} has CPython {own}, the wheels are for {facts.target.python}; preflight refuses every node that Ansible reaches with another",
            f"Set target.python to {own}, or bring an interpreter to the nodes on another way and name it (ansible_python_interpreter, appliance_node_python).",
        )  # fmt: skip
