"""The zones of a site: which networks and interfaces belong together, what lives there, and what contradicts itself. Pure.

A site without zones is one where everything lives everywhere. With zones every service lives in exactly one, so that no
address has to be guessed and nothing is reachable from two sides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.rules.networks import unfit_for_a_node

Key = tuple[str | int, ...]
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SERVICES = ("ssh", "depot", "gateway", "inference", "relay")
NEEDED = ("ssh", "depot", "gateway", "inference")  # a site without relay needs no place for it
USUAL: Mapping[str, tuple[str, ...]] = {
    "management": ("ssh", "depot"),
    "inference": ("gateway", "inference"),
    "peer": ("relay",),
}


def _network(value: str) -> str:
    if ipaddress.ip_network(value).prefixlen == 0:
        raise ValueError("this is everywhere; name the networks that are meant")
    return value


ZoneName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,14}$")]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,15}$")]
ZoneNetwork = Annotated[str, AfterValidator(_network), Field(description="CIDR, for example 192.0.2.0/24.")]


class Zone(BaseModel):
    """One network of the site that is kept apart from the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[ZoneNetwork, ...] = Field(
        (), description="Networks of the zone. A node's interface with an address in one of them belongs to it."
    )
    interfaces: tuple[Interface, ...] = Field(
        (), description="Interfaces that belong to the zone on every node that has them, such as eth1 or bond0.20."
    )
    sources: tuple[ZoneNetwork, ...] = Field(
        (), description="Narrows who may come in here; when left out, the services' own sources decide."
    )
    services: tuple[Literal["ssh", "depot", "gateway", "inference", "relay"], ...] | None = Field(
        None,
        description="What lives here. Left out: ssh and depot in management, gateway and inference in inference, relay in peer.",
    )


Zones = Mapping[str, Zone]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a zone. ``key`` is a place in ``appliance_site``, or in the host's variables when ``host`` is given."""

    key: Key
    what: str
    remedy: str
    host: str = ""


@dataclass(frozen=True)
class Use:
    """Networks that the site names for a purpose, and the zone in which they must make sense."""

    key: Key
    networks: tuple[str, ...]
    service: str = ""
    zone: str = ""


@dataclass(frozen=True)
class Place:
    """A host for the purpose of zones. ``addresses`` are those it has in zones beside its own, by zone."""

    name: str
    address: str
    groups: tuple[str, ...]
    addresses: Mapping[str, str]


def services_of(name: str, zone: Zone) -> tuple[str, ...]:
    """What lives in the zone."""
    return USUAL.get(name, ()) if zone.services is None else zone.services


def homes(zones: Zones) -> dict[str, str]:
    """Zone by service. Empty for a site without zones."""
    return {service: name for name, zone in zones.items() for service in services_of(name, zone)}


def address_in(zones: Zones, zone: str, host: Place) -> str:
    """The address of ``host`` in ``zone``, empty when it has none there.

    Its ``ansible_host`` counts where it lies in the zone's networks, and in the zone of SSH when that names no network.
    """
    if zone in host.addresses:
        return host.addresses[zone]
    networks = zones[zone].networks
    if networks:
        return host.address if _inside(host.address, networks) else ""
    return host.address if homes(zones).get("ssh") == zone else ""


def address_for(zones: Zones, service: str, host: Place) -> str:
    """The address at which ``host`` offers ``service`` or asks others for it."""
    zone = homes(zones).get(service, "")
    return address_in(zones, zone, host) if zone else host.address


def faults(zones: Zones, uses: Iterable[Use], hosts: Iterable[Place]) -> list[Fault]:
    """Everything in which the zones contradict each other, the rest of the site or the hosts."""
    if not zones:
        named = (u for u in uses if u.zone)
        return [
            Fault(u.key, f"there is no zone {u.zone}", "Describe it under zones, or leave it out here.") for u in named
        ]
    found = [*_empty(zones), *_overlapping(zones), *_shared_interfaces(zones), *_homeless(zones)]
    found += [fault for use in uses for fault in _misplaced(zones, use)]
    return found or [fault for host in hosts for fault in _host(zones, host)]


def _empty(zones: Zones) -> Iterator[Fault]:
    for name, zone in zones.items():
        if not zone.networks and not zone.interfaces:
            yield Fault(("zones", name), "names neither networks nor interfaces", "Give at least one of them.")


def _overlapping(zones: Zones) -> Iterator[Fault]:
    seen: list[tuple[str, str]] = []
    for name, zone in zones.items():
        for i, network in enumerate(zone.networks):
            for other, theirs in seen:
                if other != name and _overlap(network, theirs):
                    yield Fault(
                        ("zones", name, "networks", i),
                        f"{network} overlaps {theirs} of the zone {other}",
                        "Give every zone networks of its own.",
                    )
        seen += [(name, network) for network in zone.networks]


def _shared_interfaces(zones: Zones) -> Iterator[Fault]:
    owner: dict[str, str] = {}
    for name, zone in zones.items():
        for i, interface in enumerate(zone.interfaces):
            if owner.setdefault(interface, name) != name:
                yield Fault(
                    ("zones", name, "interfaces", i),
                    f"{interface} belongs to the zone {owner[interface]} already",
                    "Give every zone interfaces of its own; VLANs of one wire are interfaces of their own.",
                )


def _homeless(zones: Zones) -> Iterator[Fault]:
    for service in SERVICES:
        living = [name for name, zone in zones.items() if service in services_of(name, zone)]
        if len(living) > 1:
            yield Fault(
                ("zones", living[1], "services"),
                f"{service} lives in the zone {living[0]} already",
                "List it in one zone only; management, inference and peer have usual services unless they list their own.",
            )
        if not living and service in NEEDED:
            yield Fault(("zones",), f"{service} lives in no zone", "List it under services of one zone.")


def _misplaced(zones: Zones, use: Use) -> Iterator[Fault]:
    if use.zone and use.zone not in zones:
        yield Fault(use.key, f"there is no zone {use.zone}", f"The zones are: {', '.join(zones)}.")
        return
    home = use.zone or homes(zones).get(use.service, "")
    if not home:
        return
    about = use.service or "this flow"
    for network in use.networks:
        for other, zone in zones.items():
            if other != home and any(_within(network, theirs) for theirs in zone.networks):
                yield Fault(
                    use.key,
                    f"{network} lies in the zone {other}, but {about} lives in the zone {home}",
                    "Nothing passes from one zone to another: correct the network, or the zone.",
                )
        sources = zones[home].sources
        if use.service not in ("", "depot") and sources and not any(_overlap(network, s) for s in sources):
            yield Fault(
                use.key,
                f"{network} is not among the sources of the zone {home}, in which {about} lives",
                f"Add it to zones.{home}.sources, or correct it.",
            )


def _host(zones: Zones, host: Place) -> Iterator[Fault]:
    for name, address in host.addresses.items():
        key: Key = ("appliance_zone_addresses", name)
        if name not in zones:
            yield Fault(key, f"there is no zone {name}", f"The zones are: {', '.join(zones)}.", host.name)
        elif what := unfit_for_a_node(address)[0]:
            yield Fault(key, what, "Give the node's address in that zone.", host.name)
        elif zones[name].networks and not _inside(address, zones[name].networks):
            yield Fault(
                key, f"{address} lies in none of the networks of the zone {name}", "Correct one of them.", host.name
            )
    own = homes(zones)
    for other, zone in zones.items():
        if other != own["ssh"] and _inside(host.address, zone.networks):
            yield Fault(
                ("ansible_host",),
                f"{host.address} lies in the zone {other}, but SSH lives in the zone {own['ssh']}",
                "Give the node's address in that zone.",
                host.name,
            )
    wanted = {"gateway": ("gateway", "inference"), "gpu": ("inference",)}
    for service in dict.fromkeys(s for group in host.groups for s in wanted.get(group, ())):
        if not address_in(zones, own[service], host):
            yield Fault(
                ("appliance_zone_addresses", own[service]),
                f"no address in the zone {own[service]}, in which {service} lives",
                "Give it there.",
                host.name,
            )


def _overlap(one: str, other: str) -> bool:
    a, b = ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False)
    return a.version == b.version and a.overlaps(b)


def _within(one: str, other: str) -> bool:
    a, b = ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False)
    return a.version == b.version and a.subnet_of(b)  # type: ignore[arg-type]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _inside(address: str, networks: Iterable[str]) -> bool:
    """Whether it lies in one of them; a name lies in none."""
    return _is_address(address) and any(_within(address, network) for network in networks)
