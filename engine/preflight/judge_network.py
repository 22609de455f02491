"""Ports that must be free, the one way that must be open, and all others that must not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, warn
from engine.preflight.facts import Facts, Lease, Listener

DHCP_PORT = 67
BROADCAST = "255.255.255.255"  # asked after a restart, and when the server no longer answers
_WHOLE_IPV6 = 128  # DHCPv6 gives single addresses, router advertisements prefixes


def ports(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Nobody but us holds what our units will bind."""
    if not facts.network:
        return
    for need in want.ports:
        holders = [
            x
            for x in facts.network.listeners
            if (x.port, x.protocol) == (need.port, need.protocol) and x.unit not in need.units
        ]
        if holders:
            yield fail(
                "ports", f"{need.protocol} port {need.port} ({need.what}) is taken by {', '.join(sorted({_who(x) for x in holders}))}",
                "Stop and disable that program, or choose another port in the site.",
            )  # fmt: skip
        else:
            yield good("ports", f"{need.protocol} port {need.port} ({need.what}) is free or ours")


def depot(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """The node reaches the control host where the depot will answer, and it is the control host that answers."""
    if not facts.network:
        return
    if want.depot_trouble:
        yield warn("depot", f"not tried: {want.depot_trouble}", "Mend that on the control host, then ask again.")
        return
    if not want.depot:
        return
    way = facts.network.control
    if way and way.outcome == "connected":
        yield good("depot", f"the node reaches {want.depot}")
    elif way and way.outcome == "wrong":
        yield fail(
            "depot",
            f"something else than this control host answers at {want.depot}",
            "Look for a proxy or a second host with that address; correct control in the site.",
        )
    else:
        reason = f"{way.outcome}, {way.detail}" if way else "not tried"
        yield fail(
            "depot",
            f"the node does not reach {want.depot}: {reason}",
            "Open the way from nodes to the control host, or correct control.address and control.port in the site.",
        )


def outside(facts: Facts, _: Expectation) -> Iterator[Finding]:
    """No way leads out, and no name of the outside resolves."""
    if not (here := facts.network):
        return
    out = [r for r in here.outside if r.outcome == "connected"]
    if out:
        yield fail(
            "outside", f"the node reaches the outside: {', '.join(r.target for r in out)}",
            "This is no air gap: close the way at the site's router; the node's own firewall is only the second wall.",
        )  # fmt: skip
    elif here.outside:
        route = "there is a default route" if here.default_route else "there is no default route"
        yield good("outside", f"{', '.join(r.target for r in here.outside)} cannot be reached ({route})")
    if here.resolved_outside:
        yield warn(
            "names", f"names of the outside resolve ({', '.join(here.resolved_outside)}, asked of {', '.join(here.nameservers) or 'no name server'}); data can leave as questions",
            "Let the site's name servers answer for inside names alone, or take them out of /etc/resolv.conf.",
        )  # fmt: skip
    elif here.asked_outside:
        yield good("names", "no name of the outside resolves")
    if here.own_addresses:
        yield good("own-name", f"{here.own_name} is {', '.join(here.own_addresses)}")
    else:
        yield warn(
            "own-name",
            f"the node's own name {here.own_name!r} does not resolve; collective libraries and sudo stumble over that",
            "Add it to /etc/hosts.",
        )


def leases(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """No address of the node ends because the firewall does not let it be renewed."""
    if not facts.network:
        return
    for lease in facts.network.leases:
        four = "." in lease.address
        advertised = not four and lease.prefix < _WHOLE_IPV6
        told = (
            f"{lease.interface} has {lease.address} only for {lease.seconds} s more, by {_given_by(lease, advertised)}"
        )
        if _renewable(lease, want, advertised):
            yield good("leases", f"{told}, which the site lets it renew")
            continue
        server = lease.server or "ADDRESS OF THE SERVER"
        entry = f"an entry in egress with destinations: [{server}, {BROADCAST}], ports: [{DHCP_PORT}], protocol: udp"
        more = entry if four else "appliance_firewall_router_advertisements: true" if advertised else ""
        yield fail(
            "leases",
            f"{told}; the firewall of the install will not let it be renewed, and the node would be gone",
            f"Give the interface a static address{f', or add {more} (docs/firewall.md)' if more else ''}.",
        )


def _given_by(lease: Lease, advertised: bool) -> str:
    if advertised:
        return "router advertisement"
    return f"DHCP from {lease.server}" if lease.server else "DHCP"


def _renewable(lease: Lease, want: Expectation, advertised: bool) -> bool:
    if "." not in lease.address:
        return advertised and want.router_advertisements
    wanted = [BROADCAST, *([lease.server] if lease.server else [])]
    return bool(want.dhcp) and all(
        any(ipaddress.ip_address(a) in ipaddress.ip_network(n) for n in want.dhcp) for a in wanted if _is_address(a)
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False  # a node's word, which says nothing about a server then
    return True


def _who(listener: Listener) -> str:
    if not listener.pid:
        return f"somebody at {listener.address}"
    return f"{listener.process} (process {listener.pid}{', ' + listener.unit if listener.unit else ''})"


RULES: tuple[Rule, ...] = (ports, depot, outside, leases)
