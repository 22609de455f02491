"""Filters of the firewall role: networks by family, and what is wrong with a policy in words."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.rules import firewall, networks

PREFIX = "appliance_firewall_"


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
    return networks.holds(cidrs, address)


def firewall_faults(policy: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the variables, each as one sentence that names the variable and the remedy."""
    return [fault.sentence(PREFIX) for fault in firewall.policy(policy)]


def firewall_proof_faults(proof: Mapping[str, Any], egress: Iterable[Mapping[str, Any]]) -> list[str]:
    """Everything that is wrong with the variables of the proof, in the same words."""
    return [fault.sentence(PREFIX) for fault in firewall.proof(proof, egress)]


def firewall_uids(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers of users by name, from what the module getent registered for each; those that it did not find are left out."""
    entries = [(one.get("ansible_facts") or {}).get("getent_passwd") or {} for one in found]
    return {name: int(fields[1]) for users in entries for name, fields in users.items() if fields}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "firewall_networks": firewall_networks,
            "firewall_holds": firewall_holds,
            "firewall_faults": firewall_faults,
            "firewall_uids": firewall_uids,
            "firewall_proof_faults": firewall_proof_faults,
        }
