"""The firewall's policy: who comes in, what goes out, and the proof that nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.rules.fault import Fault, Key, Rule
from engine.rules.networks import HIGHEST_PORT, holds, is_address, is_port, networks

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
RATE = re.compile(r"[1-9][0-9]{0,5}/(second|minute|hour)")
SHORTEST_CONFIRM_S = 15
SHORTEST_PROOF_S = 60  # a proof of eight interfaces takes some ten seconds
PROOF_LEAST: Mapping[str, int] = {
    "interval_s": SHORTEST_PROOF_S,
    "segments": 2,
    "segment_bytes": 65536,
    "seal_every": 1,
}
# Entries that the playbooks make from the site; a node refuses a second entry of one name.
MADE = ("depot", "inference", "gpu metrics", "relay")


def policy(given: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with a policy.

    Args:
        given: any of management_sources, echo_sources, ingress, egress, interfaces, ssh_port, log_rate, confirm_timeout_s.
    """
    if "management_sources" in given:
        yield from management(given["management_sources"])
    if "echo_sources" in given:
        yield from networks(("echo_sources",), "echo_sources", given["echo_sources"])
    yield from entries("ingress", given.get("ingress") or [], "sources", anywhere=True)
    yield from entries("egress", given.get("egress") or [], "destinations", anywhere=False)
    if "interfaces" in given:
        yield from _interfaces(given["interfaces"])
    if "ssh_port" in given and not is_port(given["ssh_port"]):
        yield Fault(
            Rule.FIREWALL_SSH_PORT, ("ssh_port",), f"is {given['ssh_port']}", f"use a port from 1 to {HIGHEST_PORT}"
        )
    if "log_rate" in given and not RATE.fullmatch(str(given["log_rate"])):
        yield Fault(
            Rule.FIREWALL_LOG_RATE, ("log_rate",), f"is {given['log_rate']!r}", "write it like 5/second or 30/minute"
        )
    seconds = given.get("confirm_timeout_s", SHORTEST_CONFIRM_S)
    if not str(seconds).isdigit() or int(seconds) < SHORTEST_CONFIRM_S:
        what = f"is {seconds}, too short to connect again"
        yield Fault(Rule.FIREWALL_CONFIRM, ("confirm_timeout_s",), what, f"use at least {SHORTEST_CONFIRM_S}")


def management(sources: Iterable[Any]) -> Iterator[Fault]:
    """What is wrong with the networks that SSH is let in from."""
    given = list(sources)
    if not given:
        what = "is empty, which would lock you out"
        remedy = "name the networks that you administer nodes from"
        yield Fault(Rule.FIREWALL_MANAGEMENT, ("management_sources",), what, remedy)
    yield from networks(("management_sources",), "management_sources", given, anywhere=False)


def entries(
    kind: str, given: Iterable[Mapping[str, Any]], field: str, *, anywhere: bool, taken: Iterable[str] = ()
) -> Iterator[Fault]:
    """What is wrong with a list of entries of the policy.

    Args:
        kind: ingress or egress; begins every key.
        field: sources or destinations.
        anywhere: whether an entry may name a network that holds every address.
        taken: names that other entries have already.
    """
    seen = set(taken)
    for i, entry in enumerate(given):
        name = str(entry.get("name", ""))
        subject = f"{kind} entry {name!r}"
        if not NAME.fullmatch(name):
            what = f"is named {name!r}"
            remedy = "give it a name of up to 63 letters, digits, spaces, dots, dashes and underscores"
            yield Fault(Rule.FIREWALL_NAME, (kind, i, "name"), what, remedy, subject)
        if name in seen:
            what = (
                f"has the name {name!r}, which is there twice"
                if name not in set(taken)
                else f"has the name {name!r} of an entry that appliance makes"
            )
            yield Fault(Rule.FIREWALL_DUPLICATE, (kind, i, "name"), what, "give every entry its own name", subject)
        seen.add(name)
        yield from _entry((kind, i), subject, entry, field, anywhere=anywhere)


def _entry(key: Key, subject: str, entry: Mapping[str, Any], field: str, *, anywhere: bool) -> Iterator[Fault]:
    protocol = entry.get("protocol", "tcp")
    if protocol not in ("tcp", "udp"):
        yield Fault(Rule.FIREWALL_PROTOCOL, (*key, "protocol"), f"has protocol {protocol!r}", "use tcp or udp", subject)
    if (user := str(entry.get("user") or "")) and not USER.fullmatch(user):
        yield Fault(Rule.FIREWALL_USER, (*key, "user"), f"has the user {user!r}", "name a user of the node", subject)
    if not entry.get("ports"):
        yield Fault(Rule.FIREWALL_NO_PORTS, (*key, "ports"), "has no ports", "list the ports it needs", subject)
    if not entry.get(field):
        yield Fault(Rule.FIREWALL_NO_NETWORKS, (*key, field), f"has no {field}", "list the networks it needs", subject)
    for i, port in enumerate(entry.get("ports") or []):
        if not _ports(port):
            remedy = f"use a number from 1 to {HIGHEST_PORT}, or a range such as 8000-8010"
            yield Fault(Rule.FIREWALL_PORT, (*key, "ports", i), f"has port {port!r}", remedy, subject)
    yield from networks((*key, field), subject, entry.get(field) or [], anywhere=anywhere)


def proof(settings: Mapping[str, Any], egress: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """What is wrong with the settings of the proof: targets, interval_s, segments, segment_bytes, seal_every; any may be missing.

    Args:
        egress: entries that the policy lets out; their destinations that are no networks are not looked at.
    """
    allowed = list(egress)
    if "targets" in settings and not settings["targets"]:
        what = "is empty"
        yield Fault(Rule.FIREWALL_PROOF_TARGET, ("proof_targets",), what, "name addresses outside every allow-list")
    for i, target in enumerate(settings.get("targets") or []):
        key: Key = ("proof_targets", i)
        if not is_address(target):
            what = f"has {target!r}, which is not an address"
            yield Fault(Rule.FIREWALL_PROOF_TARGET, key, what, "write it like 192.0.2.1", "proof_targets")
            continue
        for entry in allowed:
            sound = [d for d in entry.get("destinations") or [] if not list(networks((), "", [d]))]
            if holds(sound, target):
                what = f"has {target}, which appliance_firewall_egress entry {entry.get('name')!r} lets out"
                yield Fault(Rule.FIREWALL_PROOF_OPEN, key, what, "name another", "proof_targets")
    for name, least in PROOF_LEAST.items():
        if name in settings and (not str(settings[name]).isdigit() or int(settings[name]) < least):
            yield Fault(
                Rule.FIREWALL_PROOF_SETTING, (f"proof_{name}",), f"is {settings[name]}", f"use at least {least}"
            )


def _interfaces(given: Iterable[Any]) -> Iterator[Fault]:
    names = list(given)
    if not names:
        yield Fault(
            Rule.FIREWALL_INTERFACE, ("interfaces",), "is empty", "name the interfaces that lead out of the node"
        )
    for i, name in enumerate(names):
        if not INTERFACE.fullmatch(str(name)) or name == "lo":
            remedy = "use an interface other than loopback, as `ip link` shows it"
            yield Fault(Rule.FIREWALL_INTERFACE, ("interfaces", i), f"names {name!r}", remedy, "interfaces")


def _ports(text: Any) -> bool:
    first, dash, last = str(text).partition("-")
    return is_port(first) and (not dash or (is_port(last) and int(first) < int(last)))
