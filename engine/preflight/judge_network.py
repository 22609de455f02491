"""Ports that must be free, the one way that must be open, and all others that must not."""

from __future__ import annotations

from collections.abc import Iterator

from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, warn
from engine.preflight.facts import Facts, Listener


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


def _who(listener: Listener) -> str:
    if not listener.pid:
        return f"somebody at {listener.address}"
    return f"{listener.process} (process {listener.pid}{', ' + listener.unit if listener.unit else ''})"


RULES: tuple[Rule, ...] = (ports, depot, outside)
