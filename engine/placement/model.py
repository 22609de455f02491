"""What a replica asks for, what a node has, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UNKNOWN = -1  # of a NUMA node


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node.

    Attributes:
        index: as `nvidia-smi -L` lists it; another after a reboot, perhaps.
        minor: number of its device file, /dev/nvidiaN; UNKNOWN where the driver does not tell.
        numa: NUMA node that it is attached to, or UNKNOWN.
        domain: GPUs of one domain reach each other over NVLink; a GPU without NVLink has a domain of its own.
    """

    uuid: str
    index: int
    minor: int = UNKNOWN
    numa: int = UNKNOWN
    domain: int = 0


@dataclass(frozen=True)
class Node:
    """What a node has. ``cpus`` are its CPUs by NUMA node, threads of one core side by side."""

    gpus: tuple[Gpu, ...] = ()
    cpus: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """What one replica asks for.

    Attributes:
        name: of the replica, the instance of its unit.
        service: that it belongs to.
        gpus: how many; not counted where ``indexes`` names them.
        indexes: of the GPUs, as `nvidia-smi -L` lists them.
        cpus: how many CPUs it has for itself; 0 asks for none.
    """

    name: str
    service: str
    gpus: int = 0
    indexes: tuple[int, ...] = ()
    cpus: int = 0


@dataclass(frozen=True)
class Place:
    """What one replica gets. ``numa`` is the one NUMA node of its GPUs and CPUs, UNKNOWN where there are several or none is known."""

    name: str
    service: str
    gpus: tuple[Gpu, ...] = ()
    cpus: tuple[int, ...] = ()
    numa: int = UNKNOWN


@dataclass(frozen=True)
class Held:
    """What one replica has already: UUIDs of GPUs, numbers of CPUs."""

    gpus: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A replica that cannot be placed: ``what`` is read after the service's name, ``key`` is that of the service in the site."""

    name: str
    service: str
    key: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Placement:
    """Every replica's place, in the order in which they were asked for; those that were refused have none."""

    places: tuple[Place, ...]
    refused: tuple[Refusal, ...] = ()
