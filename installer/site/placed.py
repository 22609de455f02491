"""Where each replica runs and with what, in words for plans and for status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.placement import record
from engine.report import printable
from installer.site import services
from installer.site.inventory import Host
from installer.site.services import Replica
from installer.site.settings import Site


@dataclass(frozen=True)
class Placed:
    """A replica on a node. ``has`` are its GPUs and CPUs in words; empty where it shares all that there is."""

    replica: str
    service: str
    has: str


def of_node(site: Site, host: Host, written: str) -> tuple[Placed, ...]:
    """The replicas of a node.

    Args:
        written: the text of the node's placement as it will be (engine.placement.record); without it, only what is asked for is known.
    """
    decided = {p["name"]: p for p in record.places(written.encode(), "the node's placement")} if written else {}
    return tuple(
        Placed(r.name, r.service.name, has(decided[r.name]) if r.name in decided else asked(r))
        for r in services.replicas(site, host)
    )


def has(place: Mapping[str, Any]) -> str:
    """What a place of the record gives: `GPU 0 (GPU-4f…), 2 CPUs (0-1)`."""
    told = [f"GPU {g['index']} ({g['uuid']})" for g in place["gpus"]]
    if cpus := list(place["cpus"]):
        told.append(f"{_counted(len(cpus), 'CPU')} ({spans(cpus)})")
    return ", ".join(told)


def line(place: Mapping[str, Any]) -> str:
    """What a node says that one of its replicas has, as a line to be shown.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not a place.
    """
    return printable(f"{place['name']} has {has(place)}", keep="")


def asked(replica: Replica) -> str:
    """What a replica asks for; the node decides which."""
    service, ask = replica.service, services.ask(replica)
    told = []
    if ask.indexes:
        told.append(f"GPU {', '.join(map(str, ask.indexes))}")
    elif ask.gpus:
        told.append(_counted(ask.gpus, "GPU"))
    elif service.mig:
        told.append(f"slice {service.mig.instance} of GPU {service.mig.gpu}")
    elif "nvidia" in service.devices:
        told.append("all GPUs")
    if ask.cpus:
        told.append(_counted(ask.cpus, "CPU"))
    return ", ".join(told)


def spans(numbers: list[int]) -> str:
    """Numbers as the kernel lists CPUs: 0, 1, 2, 5 is ``0-2,5``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
