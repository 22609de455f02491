"""`appliance uninstall`: every node back to what it was, as far as it was ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.report import Report
from installer.site import errand, owned
from installer.site.errand import Reply, Send
from installer.site.inventory import Host, Inventory

TIMEOUT_S = 1800.0  # a model server may drain for a quarter of an hour


@dataclass(frozen=True)
class Wish:
    """What the operator asked for."""

    check: bool = False
    keep_models: bool = False
    packages: bool = False
    limit: tuple[str, ...] = ()


def site_name(inventory: Inventory) -> str:
    """What the operator types to confirm: the name of the inventory's directory."""
    return inventory.path.resolve().name


def uninstall(inventory: Inventory, wish: Wish, report: Report, *, send: Send | None = None) -> tuple[Reply, ...]:
    """Gateways first, so that no client comes in, then the others; within each, all nodes at once.

    Raises:
        InputError: the limit names no node, or a role declares what cannot be owned.
    """
    question: Mapping[str, Any] = {
        "owns": owned.declarations(), "check": wish.check, "keep_models": wish.keep_models, "packages": wish.packages,
    }  # fmt: skip
    ask = send or _send

    def one(host: Host) -> Reply:
        reply = ask(host, errand.connection(inventory, host), "remove", question)
        if reply.value is not None:  # who failed is told with the result, once
            report.say(f"{host.name}: {'would take' if wish.check else 'took'} {reply.value['changed']} steps")
        return reply

    nodes = errand.nodes(inventory, wish.limit)
    waves: Iterable[tuple[Host, ...]] = (
        tuple(h for h in nodes if "gateway" in h.groups),
        tuple(h for h in nodes if "gateway" not in h.groups),
    )
    replies = [reply for wave in waves if wave for reply in errand.everywhere(wave, one)]
    order = {h.name: n for n, h in enumerate(nodes)}
    return tuple(sorted(replies, key=lambda r: order[r.node]))


def _send(host: Host, connection: Any, verb: str, question: Mapping[str, Any]) -> Reply:
    return errand.send(host, connection, verb, question, timeout_s=TIMEOUT_S)
