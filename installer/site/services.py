"""Which replicas of which services run on which node, and what vLLM is told of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.placement.model import Ask
from installer.site.settings import Service, Site

if TYPE_CHECKING:
    from installer.site.inventory import Host

# vLLM's flags that keys of a service stand for; `args` may not name them beside the key.
FLAGS = {
    "task": ("runner",),
    "tensor_parallel": ("tensor-parallel-size",),
    "pipeline_parallel": ("pipeline-parallel-size",),
    "quantization": ("quantization",),
    "tool_call_parser": ("tool-call-parser", "enable-auto-tool-choice"),
    "reasoning_parser": ("reasoning-parser",),
    "chat_template": ("chat-template",),
}


@dataclass(frozen=True)
class Replica:
    """One replica of a service on a node. ``name`` is the instance of its unit; ``number`` counts from 1."""

    name: str
    number: int
    service: Service


def runs_on(service: Service, host: Host) -> bool:
    """Whether a node runs a service."""
    named = not service.nodes or host.name in service.nodes or set(service.nodes) & set(host.member_of)
    return "gpu" in host.groups and bool(named)


def services(site: Site, host: Host) -> tuple[Service, ...]:
    """The services that a node runs."""
    return tuple(s for s in site.services if runs_on(s, host))


def replicas(site: Site, host: Host) -> tuple[Replica, ...]:
    """The replicas that a node runs. The first has the name of its service, so that a site of one replica is what it always was."""
    return tuple(
        Replica(service.name if n == 1 else f"{service.name}-{n}", n, service)
        for service in services(site, host)
        for n in range(1, service.replicas + 1)
    )


def default(site: Site) -> str:
    """The service that answers below /v1: the one that says so, or the first; empty without services."""
    return next((s.name for s in site.services if s.default), site.services[0].name if site.services else "")


def ask(replica: Replica) -> Ask:
    """What a replica asks its node for. One on a slice, or with all GPUs of the node, asks for none of its own."""
    service = replica.service
    indexes = service.gpus if isinstance(service.gpus, tuple) else ()
    return Ask(replica.name, service.name, 0 if indexes else service.n_gpus, indexes, service.cpus or 0)


def flags(service: Service, folder: str) -> dict[str, Any]:
    """vLLM's flags: those of ``args``, and those that other keys stand for.

    Args:
        folder: of the model on the node.
    """
    told: dict[str, Any] = {}
    if service.n_gpus > 1 or service.tensor_parallel or service.pipeline_parallel:
        tensor, pipeline = service.parallel
        told = {"tensor-parallel-size": tensor, "pipeline-parallel-size": pipeline}
    if service.task:
        told |= {"runner": "pooling", **({"convert": "embed"} if service.task == "embed" else {})}
    if service.quantization:
        told["quantization"] = service.quantization
    if service.tool_call_parser:
        told |= {"tool-call-parser": service.tool_call_parser, "enable-auto-tool-choice": True}
    if service.reasoning_parser:
        told["reasoning-parser"] = service.reasoning_parser
    if service.chat_template:
        told["chat-template"] = f"{folder}/{service.chat_template}"
    return {**told, **service.args} if service.task and "convert" in service.args else {**service.args, **told}


def question(site: Site, host: Host) -> dict[str, Any]:
    """Which services a node is to ask, and how (engine.daytwo.look)."""
    found = replicas(site, host)
    return {
        "services": {r.name: r.service.served_name for r in found},
        "tasks": {r.name: r.service.task for r in found if r.service.task},
    }


def hosts_of(service: Service, hosts: Iterable[Host]) -> list[Host]:
    """The nodes that run a service."""
    return [h for h in hosts if runs_on(service, h)]
