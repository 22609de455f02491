"""What several services of a site break together: names, nodes, GPUs, CPUs. Pure.

GPUs are given out on the node (engine.placement); here the same decision is made with as many GPUs as the inventory says that the node
has (``appliance_gpus``), or with enough where it does not say, so that GPUs named twice are found in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.placement.choose import place
from engine.placement.model import Ask, Gpu, Node
from engine.rules.fault import Fault, Key, Rule
from installer.site import services
from installer.site.rules.given import Given
from installer.site.settings import Service, Site

if TYPE_CHECKING:
    from installer.site.inventory import Host

# vLLM on CPU takes a share of all memory for its cache, and refuses to start when another service has taken it already
# (vllm/v1/worker/cpu_worker.py), unless the size is given.
KV_CACHE, KV_CACHE_FLAG = "VLLM_CPU_KVCACHE_SPACE", "kv-cache-memory-bytes"
MAX_NAME = 31  # characters of a unit's instance (engine.rules.services)


def serving(given: Given) -> Iterator[Fault]:
    """Every broken rule; keys begin with ``services`` and the number of the service."""
    for i, service in enumerate(given.site.services):
        yield from _alone(("services", i), service)
        yield from _nodes(("services", i, "nodes"), service, given.nodes)
    yield from _twice(given.site)
    yield from _gateways(given)
    for host in given.nodes:
        if services.services(given.site, host):
            yield from _shared(given.site, host)
            yield from _placed(given.site, host)


def _alone(key: Key, service: Service) -> Iterator[Fault]:
    """What contradicts itself on whatever node."""
    whole = isinstance(service.gpus, tuple)
    if service.gpus is not None and service.mig:
        yield Fault(Rule.SERVICE_GPUS, (*key, "gpus"), "stands beside mig", "name whole GPUs or a slice, not both")
    if service.gpus is not None and "nvidia" not in service.devices:
        what, remedy = "needs the GPUs' devices, and devices does not name them", "remove devices, or add nvidia to it"
        yield Fault(Rule.SERVICE_GPUS, (*key, "gpus"), what, remedy)
    if isinstance(service.gpus, tuple) and len(set(service.gpus)) != len(service.gpus):
        yield Fault(Rule.SERVICE_GPUS, (*key, "gpus"), "names a GPU more than once", "name every GPU once")
    if service.replicas > 1 and (whole or service.mig or ("nvidia" in service.devices and service.gpus is None)):
        what = f"is {service.replicas}, and all of them would have the same GPUs"
        yield Fault(Rule.SERVICE_GPUS, (*key, "replicas"), what, "give gpus as a number, for each replica")
    yield from _parallel(key, service)
    for name, flags in services.FLAGS.items():
        derived = name in ("tensor_parallel", "pipeline_parallel") and service.gpus is not None
        for flag in (f for f in flags if f in _spelled(service.args)):
            if getattr(service, name) is not None or derived:
                what = f"says again what {name if getattr(service, name) is not None else 'gpus'} says"
                yield Fault(Rule.SERVICE_ARGS, (*key, "args", flag), what, f"remove it, and write {name} beside args")
    if service.chat_template and ".." in service.chat_template.split("/"):
        what = "leads out of the model's folder"
        yield Fault(Rule.SERVICE_ARGS, (*key, "chat_template"), what, "name a file of the model's folder")
    if len(longest := f"{service.name}-{service.replicas}") > MAX_NAME and service.replicas > 1:
        what = f"makes the name {longest} of {len(longest)} characters"
        yield Fault(
            Rule.SERVICE_DUPLICATE, (*key, "name"), what, f"shorten it, so that all replicas' have {MAX_NAME} at most"
        )


def _parallel(key: Key, service: Service) -> Iterator[Fault]:
    tensor, pipeline = service.parallel
    if service.gpus is None:
        for name in ("tensor_parallel", "pipeline_parallel"):
            if getattr(service, name) is not None:
                what = "says how to share GPUs, and gpus does not say how many"
                yield Fault(Rule.SERVICE_PARALLEL, (*key, name), what, "add gpus")
    elif tensor * pipeline != service.n_gpus:
        name = "tensor_parallel" if service.tensor_parallel else "pipeline_parallel"
        what = f"does not fit: {tensor} x {pipeline} (tensor x pipeline) are {tensor * pipeline} GPUs, and gpus gives {service.n_gpus}"
        remedy = "make their product the number of GPUs, or leave tensor_parallel out"
        yield Fault(Rule.SERVICE_PARALLEL, (*key, name), what, remedy)


def _nodes(key: Key, service: Service, nodes: Sequence[Host]) -> Iterator[Fault]:
    known = {h.name for h in nodes} | {g for h in nodes for g in h.member_of}
    able = {h.name for h in nodes if "gpu" in h.groups} | {g for h in nodes if "gpu" in h.groups for g in h.member_of}
    for j, name in enumerate(service.nodes):
        if name not in known:
            what = f"is {name!r}, which is neither a node nor a group with nodes"
            yield Fault(
                Rule.SERVICE_NODES,
                (*key, j),
                what,
                f"name nodes of the group gpu: {', '.join(sorted(h.name for h in nodes if 'gpu' in h.groups))}",
            )
        elif name not in able:
            what = f"is {name!r}, and no node of it is in the group gpu"
            yield Fault(
                Rule.SERVICE_NODES,
                (*key, j),
                what,
                "put the node into the group gpu, which all serving nodes are in, or name another",
            )


def _twice(site: Site) -> Iterator[Fault]:
    names = {s.name: s.name for s in reversed(site.services)}
    for i, service in enumerate(site.services):
        for replica in (f"{service.name}-{n}" for n in range(2, service.replicas + 1)):
            if (other := names.setdefault(replica, service.name)) != service.name:
                what = f"makes the unit {replica}, which is that of the service {other}"
                yield Fault(Rule.SERVICE_DUPLICATE, ("services", i, "replicas"), what, "give one of them another name")
    for field in ("name", "served_name"):
        seen: dict[str, str] = {}
        for i, service in enumerate(site.services):
            value = getattr(service, field)
            if value in seen:
                what = f"is {value!r}, which services entry {seen[value]} has"
                yield Fault(Rule.SERVICE_DUPLICATE, ("services", i, field), what, "give every service another one")
            seen.setdefault(value, str(i))
    marked = [i for i, s in enumerate(site.services) if s.default]
    for i in marked[1:]:
        what = f"is true, and services entry {marked[0]} has it already"
        yield Fault(Rule.SERVICE_DUPLICATE, ("services", i, "default"), what, "let one service answer below /v1")


def _gateways(given: Given) -> Iterator[Fault]:
    """A gateway that serves asks its own models alone: nothing lets it out to other nodes."""
    for host in (h for h in given.nodes if {"gateway", "gpu"} <= set(h.groups)):
        for i, service in enumerate(given.site.services):
            if not services.runs_on(service, host):
                what = f"leaves out {host.name}, a gateway that serves and so reaches no other node"
                remedy = "add it, or take it out of the group gateway or of the group gpu"
                yield Fault(Rule.SERVICE_NODES, ("services", i, "nodes"), what, remedy)


def _shared(site: Site, host: Host) -> Iterator[Fault]:
    """What services that share a node must say, so that none takes what another needs."""
    here = [(i, s) for i, s in enumerate(site.services) if services.runs_on(s, host)]
    if sum(s.replicas for _, s in here) < 2:
        return
    on_gpu = [(i, s) for i, s in here if "nvidia" in s.devices]
    for i, service in here:
        key: Key = ("services", i)
        if "nvidia" not in service.devices:
            for field in ("cpus", "memory_max"):
                if not getattr(service, field):
                    what = f"is missing, and {service.name} shares the CPUs and the memory of {host.name} with others"
                    remedy = (
                        "say how many CPUs each replica has"
                        if field == "cpus"
                        else "say how much memory each replica may use, such as 8G"
                    )
                    yield Fault(Rule.SERVICE_CPUS, (*key, field), what, remedy)
            if KV_CACHE not in service.environment and KV_CACHE_FLAG not in _spelled(service.args):
                what = f"has no {KV_CACHE}, and vLLM takes most of a node's memory without it"
                remedy = f"add {KV_CACHE} with the GiB of its key-value cache, below memory_max"
                yield Fault(Rule.SERVICE_CPUS, (*key, "environment"), what, remedy)
        elif service.gpus is None and service.mig is None and len(on_gpu) > 1:
            what = f"is missing, and {service.name} shares the GPUs of {host.name} with others"
            yield Fault(Rule.SERVICE_GPUS, (*key, "gpus"), what, "say how many GPUs it has for itself, or which")


def _placed(site: Site, host: Host) -> Iterator[Fault]:
    """Whether all replicas find their GPUs."""
    asks = [services.ask(r) for r in services.replicas(site, host)]
    number = host.gpus if host.gpus is not None else _enough(asks)
    whole = [i for i in range(number) if i not in _divided(site, number)]
    gpus = tuple(Gpu(f"{i:04}", i, i) for i in whole)
    numbers = {s.name: i for i, s in enumerate(site.services)}
    for refusal in place([Ask(a.name, a.service, a.gpus, a.indexes) for a in asks], Node(gpus)).refused:
        yield Fault(
            Rule.SERVICE_GPUS,
            ("services", numbers[refusal.service], refusal.key),
            f"{refusal.what} ({host.name})",
            refusal.remedy,
        )


def _divided(site: Site, number: int) -> set[int]:
    """GPUs that the layout divides: they are given out as slices."""
    found: set[int] = set()
    for group in site.mig.layout if site.mig else ():
        if group.profiles:
            found |= set(range(number)) if group.gpus == "all" else set(group.gpus)
    return found


def _enough(asks: Iterable[Ask]) -> int:
    known = list(asks)
    return 1 + sum(a.gpus for a in known) + max((i for a in known for i in a.indexes), default=0)


def _spelled(args: dict[str, Any]) -> set[str]:
    return {str(a).strip("-_").replace("_", "-").lower() for a in args}
