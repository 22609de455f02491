"""What a release and a site need of one node, and what judging it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from engine.placement.model import Ask
from engine.preflight.facts import Facts

Severity = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        supported: false when nothing short of other hardware or another release helps.
        reboot: the node passes because the install brings what is missing, and a restart of the node puts it into force.
    """

    check: str
    severity: Severity
    what: str
    remedy: str = ""
    supported: bool = True
    reboot: bool = False


@dataclass(frozen=True)
class SpaceNeed:
    """Bytes that will be written below a path."""

    path: str
    n_bytes: int
    what: str


@dataclass(frozen=True)
class PortNeed:
    """A port that a unit of ours will bind; ``units`` may hold it already."""

    port: int
    what: str
    units: tuple[str, ...]
    protocol: str = "tcp"


@dataclass(frozen=True)
class GpuNeed:
    """GPUs of the definition. ``cuda`` is what the wheels were built for, () when they hold none.

    Attributes:
        models: names of the definition that are allowed.
        driver: full version, empty when the definition names none.
        branch: lowest driver branch for ``cuda``.
        modules: open or proprietary; empty when it does not matter.
        secure_boot: off, mok or signed.
        brings_driver: the install brings the driver (and its kernel), so what the node has now is judged no further than that.
        brings_mig: the install divides the GPUs.
    """

    models: tuple[str, ...] = ()
    driver: str = ""
    branch: int = 0
    cuda: tuple[int, ...] = ()
    modules: str = ""
    secure_boot: str = ""
    mig: bool = False
    nvswitch: bool = False
    brings_driver: bool = False
    brings_mig: bool = False


@dataclass(frozen=True)
class Expectation:
    """What this node should be. ``gpu`` is None where no GPU is needed.

    Attributes:
        os: as in the definition, for example debian-12; empty leaves it open, as everything empty does.
        offset_s, offset_error_s: the node's clock less the control host's, and how far that may be off.
        asks: GPUs and CPUs that each replica of a service has for itself.
        memory_bytes: what the services may use at most, 0 without a limit.
        depot: how the control host listened for the node: its address and port, or why it could not.
        dhcp: networks that the site's firewall lets requests for a lease out to.
        router_advertisements: whether the firewall lets in what IPv6 routers tell.
    """

    os: str = ""
    machine: str = ""
    python: str = ""
    kernel: str = ""
    vector: bool = False
    gpu: GpuNeed | None = None
    spaces: tuple[SpaceNeed, ...] = ()
    ports: tuple[PortNeed, ...] = ()
    asks: tuple[Ask, ...] = ()
    memory_bytes: int = 0
    offset_s: float = 0.0
    offset_error_s: float = 0.0
    depot: str = ""
    depot_trouble: str = ""
    dhcp: tuple[str, ...] = ()
    router_advertisements: bool = False


Rule = Callable[[Facts, Expectation], Iterator[Finding]]


def good(check: str, what: str) -> Finding:
    return Finding(check, "pass", what)


def planned(check: str, what: str) -> Finding:
    """The install brings it, and a restart of the node puts it into force."""
    return Finding(check, "pass", what, reboot=True)


def warn(check: str, what: str, remedy: str) -> Finding:
    return Finding(check, "warn", what, remedy)


def fail(check: str, what: str, remedy: str, *, supported: bool = True) -> Finding:
    return Finding(check, "fail", what, remedy, supported)
