"""What a rehearsal installs on: nodes like those of a site, or the simplest ones that a bundle needs. Pure.

What cannot be rehearsed is left out of the shape and named in its gaps, so that nobody reads more into a rehearsal than was run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import InputError
from installer.definition import Definition, WheelSet
from installer.lab.plan import release_of
from installer.site.inventory import Host, Inventory
from installer.site.services import hosts_of
from installer.site.settings import Control, Service, Site

NODE = "node-1"
# What one machine's inventory says of its own devices and people, which a lab node has not.
LOCAL = (
    "appliance_site", "appliance_firewall_interfaces", "appliance_firewall_unguarded", "appliance_firewall_management_sources",
    "appliance_firewall_ssh_port", "appliance_firewall_echo_sources", "appliance_zone_addresses",
)  # fmt: skip
# Small enough for any builder: one process, no compilation, a short context.
FRUGAL_ARGS = {"dtype": "bfloat16", "max-model-len": 1024, "enforce-eager": True}
FRUGAL_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
_ADDRESS = re.compile(
    r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?\w)|(?<![\w:])(?:[0-9A-Fa-f]*:){2,}[0-9A-Fa-f]*(?![\w:])"
)


@dataclass(frozen=True)
class Shape:
    """Nodes, site and variables. Addresses are the inventory's own until ``moved``; ``gaps`` say what is not rehearsed."""

    release: str
    hosts: tuple[Host, ...]
    site: Site
    variables: Mapping[str, Mapping[str, Any]]
    gaps: tuple[str, ...] = ()


def like(inventory: Inventory, variables: Mapping[str, Mapping[str, Any]], definition: Definition) -> Shape:
    """Nodes like those of a site: same names, groups and variables; the definition's operating system.

    Raises:
        InputError: the lab cannot make such nodes, or the site has none.
    """
    hosts = tuple(h for h in inventory.hosts if h.groups != ("control",))
    if not hosts:
        raise InputError(
            "the inventory has no node to rehearse on",
            where=str(inventory.path),
            remedy="Put hosts into gateway, gpu or monitoring.",
        )
    kept = {
        h.name: {k: v for k, v in variables.get(h.name, {}).items() if not k.startswith("ansible_") and k not in LOCAL}
        for h in hosts
    }
    gaps: tuple[str, ...] = (
        ("zones: the lab is one network, so that services were not kept apart",) if inventory.site.zones else ()
    )
    if (store := inventory.site.model_store) and store.device:
        gaps += ("the model store: the lab's nodes have no device for it; content lies on their root file system",)
    if inventory.references:
        gaps += ("passwords: what comes from the site's vault is left out, the lab is no place for it",)
    site = inventory.without_vault().model_copy(update={"model_store": None})
    return _servable(Shape(release_of(definition.target.os), hosts, site, kept, gaps), definition)


def simplest(definition: Definition, profiles: Iterable[str], model: str = "") -> Shape:
    """One node that is everything the bundle has content for, and serves one model of it.

    Args:
        profiles: of the bundle's artifacts.
        model: which to serve; the definition's first for gpu when empty.

    Raises:
        InputError: the lab cannot make such a node, the bundle is for no node, or has not that model.
    """
    groups = tuple(g for g in ("gateway", "gpu", "monitoring") if g in set(profiles))
    if not groups:
        raise InputError(
            "the bundle has nothing for nodes", remedy="Give something in the definition the profile gateway, gpu or monitoring."
        )  # fmt: skip
    servable = [m.name for m in definition.models if "gpu" in m.profiles]
    if model and model not in servable:
        raise InputError(
            f"the bundle has no model {model} for gpu nodes", remedy=f"It has: {', '.join(servable) or 'none'}."
        )
    runtime = next((w for w in definition.wheels if "gpu" in w.profiles and _is_vllm(w)), None)
    gaps, services = [], []
    if runtime is None:
        gaps.append("serving: the bundle has no wheel set with vLLM for gpu nodes")
    elif not servable:
        gaps.append("serving: the bundle has no model for gpu nodes")
    elif "gateway" not in groups:
        gaps.append("serving: the bundle has nothing for a gateway, through which a client would ask")
    else:
        chosen = model or servable[0]
        service = Service(
            name="rehearsal", model=chosen, served_name=chosen, args=FRUGAL_ARGS, environment=FRUGAL_ENVIRONMENT
        )
        services.append(service)
        gaps += [f"serving {name}: one model is served at a time; choose it with --model" for name in servable if name != chosen]  # fmt: skip
    site = Site(
        control=Control(address="192.0.2.1"),
        management_sources=("192.0.2.1",),
        runtime=runtime.name if runtime else "vllm",
        services=tuple(services),
    )
    shape = Shape(release_of(definition.target.os), (Host(NODE, "192.0.2.11", groups),), site, {NODE: {}}, tuple(gaps))
    return _servable(shape, definition)


def _is_vllm(wheels: WheelSet) -> bool:
    return any(re.match(r"vllm([^a-z]|$)", r.strip().lower()) for r in wheels.requirements)


def _servable(shape: Shape, definition: Definition) -> Shape:
    """Without services that want a GPU: no node of the lab has one, whatever this machine has."""
    wants = [s.name for s in shape.site.services if s.devices or definition.target.gpu]
    if not wants:
        return shape
    why = f"serving {', '.join(wants)}: it needs a GPU, and the lab's nodes have none; runtime, packages and models were installed without it"
    return replace(shape, site=shape.site.model_copy(update={"services": ()}), gaps=(*shape.gaps, why))


def moved(shape: Shape, addresses: Mapping[str, str], control: str) -> Shape:
    """The same nodes in the lab's own network, administered and asked from this host alone.

    Args:
        addresses: of the lab's nodes by name.
        control: this host's address as the nodes see it.
    """
    new = {h.address: addresses[h.name] for h in shape.hosts} | {shape.site.control.address: control}
    site = shape.site.model_dump(mode="json") | {
        "management_sources": [control],
        "client_sources": [control],
        "zones": {},
    }
    hosts = tuple(replace(h, address=addresses[h.name], zone_addresses={}) for h in shape.hosts)
    for flow in site["egress"]:
        flow["zone"] = ""  # the lab is one network
    for told, service in zip(site["services"], shape.site.services, strict=True):
        if service.nodes:  # groups of the operator's own are not written into the lab's inventory
            told["nodes"] = [h.name for h in hosts_of(service, shape.hosts)]
    site = translated(site, new)
    site["control"]["address"] = control  # also where the inventory's control host is one of its nodes
    return replace(
        shape, hosts=hosts, site=Site.model_validate(site), variables={n: translated(dict(v), new) for n, v in shape.variables.items()}
    )  # fmt: skip


def translated(value: Any, addresses: Mapping[str, str]) -> Any:
    """``value`` with every address that stands in ``addresses`` replaced, also inside texts and with a port or prefix behind it."""
    if isinstance(value, dict):
        return {k: translated(v, addresses) for k, v in value.items()}
    if isinstance(value, list):
        return [translated(v, addresses) for v in value]
    return _ADDRESS.sub(lambda m: addresses.get(m[0], m[0]), value) if isinstance(value, str) else value


def files(shape: Shape, connection: Mapping[str, str]) -> dict[str, Any]:
    """The inventory's files as documents.

    Args:
        connection: Ansible's variables for reaching the nodes.
    """
    children: dict[str, dict[str, Any]] = {}
    for host in shape.hosts:
        for group in host.groups:
            children.setdefault(group, {"hosts": {}})["hosts"][host.name] = {
                **shape.variables.get(host.name, {}), "ansible_host": host.address,
            }  # fmt: skip
    return {
        "hosts.yml": {"all": {"vars": dict(connection), "children": children}},
        "group_vars/all/site.yml": {"appliance_site": shape.site.model_dump(mode="json")},
    }
