"""Filters of the firewall role: which of a node's interfaces belong to which zone, and what that means for its rules."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

ZONE = re.compile(r"[a-z][a-z0-9_]{0,14}")


def firewall_places(zones: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The zones as this node has them, in the order given.

    Args:
        zones: name, and any of interfaces, networks, sources.
        facts: ``ansible_facts`` with the subset network.

    Returns:
        name, interfaces (those named that exist, and those with an address in one of the networks; sorted), addresses (of
        these interfaces, without link-local ones), networks, sources, foreign (the networks of all other zones).
    """
    here = _addresses(facts)
    given = list(zones)
    places = []
    for zone in given:
        networks = [ipaddress.ip_network(n) for n in zone.get("networks") or []]
        named = {i for i in zone.get("interfaces") or [] if i in here}
        found = {i for i, own in here.items() if any(a in n for a in own for n in networks)}
        interfaces = sorted(named | found)
        places.append(
            {
                "name": zone["name"],
                "interfaces": interfaces,
                "addresses": [str(a) for i in interfaces for a in here[i] if not a.is_link_local],
                "networks": list(zone.get("networks") or []),
                "sources": list(zone.get("sources") or []),
                "foreign": [n for other in given if other["name"] != zone["name"] for n in other.get("networks") or []],
            }
        )
    return places


def firewall_zone_faults(
    places: Iterable[Mapping[str, Any]], policy: Mapping[str, Any], interfaces: Iterable[str]
) -> list[str]:
    """What is wrong with the zones on this node, each as one sentence that names the variable and the remedy.

    Args:
        policy: management_zone, ingress and egress as in the variables ``appliance_firewall_*``.
        interfaces: those that the second door guards.
    """
    variable = "appliance_firewall_zones"
    zones = {str(p["name"]): p for p in places}
    faults = [
        f"{variable} has {n!r}: name zones with lower-case letters and digits." for n in zones if not ZONE.fullmatch(n)
    ]
    owner: dict[str, str] = {}
    for name, place in zones.items():
        for interface in place["interfaces"]:
            if owner.setdefault(interface, name) != name:
                faults.append(
                    f"{variable}: {interface} of this node has addresses in the zones {owner[interface]} and {name},"
                    " so they cannot be kept apart: give each zone an interface or a VLAN of its own."
                )
    faults += [
        f"{variable}: {interface} belongs to the zone {name} but is not in appliance_firewall_interfaces: add it."
        for interface, name in owner.items()
        if interface not in set(interfaces)
    ]
    management = policy["management_zone"]
    if zones and not management:
        faults.append("appliance_firewall_management_zone is empty: name the zone that SSH lives in.")
    wanted = [("appliance_firewall_management_zone", management)] if management else []
    wanted += [(f"appliance_firewall_ingress entry {e.get('name')!r}", e.get("zone") or "") for e in policy["ingress"]]
    for where, name in [
        *wanted,
        *((f"appliance_firewall_egress entry {e.get('name')!r}", e.get("zone") or "") for e in policy["egress"]),
    ]:
        if name and name not in zones:
            faults.append(f"{where} names the zone {name!r}, which is not in {variable}: describe it there.")
    faults += [
        f"{where} lives in the zone {name}, but this node has no interface in it: give the node an address in"
        f" {', '.join(zones[name]['networks']) or 'it'}, or name its interface in {variable}."
        for where, name in wanted
        if name in zones and not zones[name]["interfaces"]
    ]
    return faults


def firewall_guarded(places: Iterable[Mapping[str, Any]], otherwise: Iterable[str]) -> list[str]:
    """Interfaces that the second door guards: those of the zones and those that lead out in any case. Sorted."""
    return sorted({i for place in places for i in place["interfaces"]} | set(otherwise))


def firewall_in_zone(entries: Iterable[Mapping[str, Any]], places: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``entries`` with ``doors``, the interfaces of their zone; those of a zone that this node is not in are left out.

    An entry without a zone has no doors, which means every interface.
    """
    interfaces = {str(p["name"]): list(p["interfaces"]) for p in places}
    found = []
    for entry in entries:
        zone = entry.get("zone") or ""
        doors = interfaces.get(zone, [])
        if doors or not zone:
            found.append({**entry, "zone": zone, "doors": doors})
    return found


def firewall_door(entry: Mapping[str, Any], direction: str) -> str:
    """The beginning of a rule for ``entry``: empty, or its interfaces. ``direction`` is iifname or oifname."""
    return f"{direction} {_names(entry['doors'])} " if entry["doors"] else ""


def firewall_names(interfaces: Iterable[str]) -> str:
    """Interfaces as a set of nft."""
    return _names(interfaces)


def firewall_chains(interfaces: Iterable[str], places: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The chain of the second door for each interface: ``zone_NAME``, or ``outward`` where no zone has it."""
    zone = {i: f"zone_{p['name']}" for p in places for i in p["interfaces"]}
    return {i: zone.get(i, "outward") for i in interfaces}


def _names(interfaces: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{i}"' for i in interfaces) + " }"


def _addresses(facts: Mapping[str, Any]) -> dict[str, list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Addresses by interface, but loopback. Facts of an interface go by a changed name; the real one is inside."""
    names = set(facts.get("interfaces") or []) - {"lo"}
    found: dict[str, list[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {name: [] for name in names}
    for fact in facts.values():
        device = fact.get("device") if isinstance(fact, Mapping) else None
        if device not in names:
            continue
        entries = [fact.get("ipv4") or {}, *(fact.get("ipv4_secondaries") or []), *(fact.get("ipv6") or [])]
        found[device] += [ipaddress.ip_address(e["address"]) for e in entries if e.get("address")]
    return {name: list(dict.fromkeys(found[name])) for name in sorted(found)}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "firewall_places": firewall_places,
            "firewall_zone_faults": firewall_zone_faults,
            "firewall_guarded": firewall_guarded,
            "firewall_in_zone": firewall_in_zone,
            "firewall_door": firewall_door,
            "firewall_names": firewall_names,
            "firewall_chains": firewall_chains,
        }
