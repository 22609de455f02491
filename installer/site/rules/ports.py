"""Ports that need root, and ports that two services of one node would listen on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.rules import names, networks
from engine.rules.fault import Fault, Key, Rule
from installer.site.rules.given import Given

SSH_PORT = 22


def ports(given: Given) -> Iterator[Fault]:
    """Ports that need root, and ports of one node that two would listen on."""
    site = given.site
    serves = bool(site.services)
    for host in given.nodes:
        mine: list[tuple[int, Key, str]] = []
        edge: Key = ("gateway", "port") if "gateway" in host.groups else ("inference_port",)
        number = site.gateway.port if "gateway" in host.groups else site.inference_port
        if serves and {"gateway", "gpu"} & set(host.groups):
            mine.append((number, edge, "the gateway" if "gateway" in host.groups else "inference"))
            yield from (Fault(f.rule, edge, f.what, f.remedy) for f in names.edge(number, (), ()))
        if site.gpu_metrics and "gpu" in host.groups:
            port = site.gpu_metrics.port
            mine.append((port, ("gpu_metrics", "port"), "gpu_metrics"))
            found = names.metrics(port, host.address, [])
            yield from (
                Fault(f.rule, ("gpu_metrics", "port"), f.what, f.remedy) for f in found if f.rule is Rule.DCGM_PORT
            )
        for i, container in enumerate(site.containers or ()):
            if set(container.groups) & set(host.groups):
                where: Key = ("containers", i, "ports")
                mine += [
                    (p.port, (*where, j, "port"), f"the container {container.name}")
                    for j, p in enumerate(container.ports)
                ]
        if site.relay.enabled and len(given.nodes) > 1:
            mine.append((site.relay.port, ("relay", "port"), "the relay"))
        if host.address == site.control.address:
            mine.append((site.control.port, ("control", "port"), "the depot"))
        ssh = given.of(host, "firewall").get("ssh_port", SSH_PORT)
        yield from _shared(host.name, [(int(ssh) if networks.is_port(ssh) else SSH_PORT, (), "SSH"), *mine])


def _shared(host: str, listening: Iterable[tuple[int, Key, str]]) -> Iterator[Fault]:
    owner: dict[int, str] = {}
    for port, key, who in listening:
        other = owner.setdefault(port, who)
        if other != who and not (who.startswith("the container") and other.startswith("the container")):
            yield Fault(
                Rule.SITE_PORTS,
                key,
                f"is {port}, which {other} has on {host}",
                "give every port of a node to one service",
            )
