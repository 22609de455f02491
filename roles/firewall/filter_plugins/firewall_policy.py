"""Filters of the firewall role: networks by family, and what is wrong with a policy in words."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}")
INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
RATE = re.compile(r"[1-9][0-9]{0,5}/(second|minute|hour)")
HIGHEST_PORT = 65535
SHORTEST_CONFIRM_S = 15
SHORTEST_PROOF_S = 60  # a proof of eight interfaces takes some ten seconds


def firewall_networks(cidrs: Iterable[str], version: int) -> list[str]:
    """The networks of one IP version, sorted, with those inside others left out.

    Args:
        version: 4 or 6.
    """
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    family = [network for network in networks if network.version == version]
    return [str(network) for network in ipaddress.collapse_addresses(family)]  # type: ignore[type-var]


def firewall_holds(cidrs: Iterable[str], address: str) -> bool:
    """Whether ``address`` lies in one of ``cidrs``."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in ipaddress.ip_network(cidr) for cidr in cidrs)


def firewall_faults(policy: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the variables, each as one sentence that names the variable and the remedy."""
    faults = [
        *_management(policy["management_sources"]),
        *_networks("appliance_firewall_echo_sources", policy["echo_sources"]),
        *_entries("ingress", policy["ingress"], "sources", anywhere=True),
        *_entries("egress", policy["egress"], "destinations", anywhere=False),
    ]
    if not policy["interfaces"]:
        faults.append("appliance_firewall_interfaces is empty: name the interfaces that lead out of the node.")
    faults += [
        f"appliance_firewall_interfaces names {name!r}: use an interface other than loopback, as `ip link` shows it."
        for name in policy["interfaces"]
        if not INTERFACE.fullmatch(str(name)) or name == "lo"
    ]
    if not _port(policy["ssh_port"]):
        faults.append(f"appliance_firewall_ssh_port is {policy['ssh_port']}: use a port from 1 to {HIGHEST_PORT}.")
    if not RATE.fullmatch(str(policy["log_rate"])):
        faults.append(f"appliance_firewall_log_rate is {policy['log_rate']!r}: write it like 5/second or 30/minute.")
    if int(policy["confirm_timeout_s"]) < SHORTEST_CONFIRM_S:
        faults.append(
            f"appliance_firewall_confirm_timeout_s is {policy['confirm_timeout_s']}, too short to connect again:"
            f" use at least {SHORTEST_CONFIRM_S}."
        )
    return faults


def firewall_proof_faults(proof: Mapping[str, Any], egress: Iterable[Mapping[str, Any]]) -> list[str]:
    """Everything that is wrong with the variables of the proof, in the same words."""
    variable, faults = "appliance_firewall_proof_targets", []
    if not proof["targets"]:
        faults.append(f"{variable} is empty: name addresses outside every allow-list.")
    for target in proof["targets"]:
        try:
            address = ipaddress.ip_address(target if isinstance(target, str) else "")
        except ValueError:
            faults.append(f"{variable} has {target!r}, which is no address: write it like 192.0.2.1.")
            continue
        faults += [
            f"{variable} has {target}, which appliance_firewall_egress entry {entry.get('name')!r} lets out: name another."
            for entry in egress
            if firewall_holds(entry.get("destinations") or [], str(address))
        ]
    least = {"interval_s": SHORTEST_PROOF_S, "segments": 2, "segment_bytes": 65536, "seal_every": 1}
    return faults + [
        f"appliance_firewall_proof_{name} is {proof[name]}: use at least {number}."
        for name, number in least.items()
        if int(proof[name]) < number
    ]


def _management(sources: list[str]) -> list[str]:
    variable = "appliance_firewall_management_sources"
    if not sources:
        return [f"{variable} is empty, which would lock you out: name the networks that you administer nodes from."]
    return _networks(variable, sources, anywhere=False)


def _networks(where: str, cidrs: Iterable[Any], *, anywhere: bool = True) -> list[str]:
    faults = []
    for cidr in cidrs:
        try:
            network = ipaddress.ip_network(cidr if isinstance(cidr, str) else "")
        except ValueError as error:
            faults.append(
                f"{where} has {cidr!r}, which is no network ({error}): write it like 10.1.2.0/24 or 2001:db8::/32."
            )
            continue
        if network.prefixlen == 0 and not anywhere:
            faults.append(f"{where} has {cidr}, which is everywhere: name the networks that are meant.")
    return faults


def _entries(kind: str, entries: Iterable[Mapping[str, Any]], networks: str, *, anywhere: bool) -> list[str]:
    faults: list[str] = []
    seen: set[str] = set()
    for entry in entries:
        name = str(entry.get("name", ""))
        where = f"appliance_firewall_{kind} entry {name!r}"
        if not NAME.fullmatch(name):
            faults.append(f"{where}: give it a name of up to 63 letters, digits, spaces, dots, dashes and underscores.")
        if name in seen:
            faults.append(f"{where} is there twice: give every entry its own name.")
        seen.add(name)
        if entry.get("protocol", "tcp") not in ("tcp", "udp"):
            faults.append(f"{where} has protocol {entry.get('protocol')!r}: use tcp or udp.")
        if not entry.get("ports"):
            faults.append(f"{where} has no ports: list the ports it needs.")
        if not entry.get(networks):
            faults.append(f"{where} has no {networks}: list the networks it needs.")
        faults += [
            f"{where} has port {port!r}: use a number from 1 to {HIGHEST_PORT}, or a range such as 8000-8010."
            for port in entry.get("ports") or []
            if not _ports(port)
        ]
        faults += _networks(where, entry.get(networks) or [], anywhere=anywhere)
    return faults


def _ports(text: Any) -> bool:
    first, dash, last = str(text).partition("-")
    return _port(first) and (not dash or (_port(last) and int(first) < int(last)))


def _port(text: Any) -> bool:
    return str(text).isascii() and str(text).isdigit() and 1 <= int(text) <= HIGHEST_PORT


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "firewall_networks": firewall_networks,
            "firewall_holds": firewall_holds,
            "firewall_faults": firewall_faults,
            "firewall_proof_faults": firewall_proof_faults,
        }
