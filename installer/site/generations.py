"""`appliance generations`: which states nodes keep to go back to, and dropping them for the sake of their disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from installer.site import errand
from installer.site.errand import Reply, Send
from installer.site.inventory import Host, Inventory

LIST_TIMEOUT_S = 60.0
PRUNE_TIMEOUT_S = 900.0  # a runtime is a hundred thousand files


def kept(inventory: Inventory, limit: Sequence[str] = (), *, send: Send | None = None) -> tuple[Reply, ...]:
    """Every node's states, as `engine.generation.states.listed` has them.

    Raises:
        InputError: the limit names no node.
    """
    return _all(inventory, limit, {"keep": None}, send or _send(LIST_TIMEOUT_S))


def prune(
    inventory: Inventory, keep: int, limit: Sequence[str] = (), *, check: bool = False, send: Send | None = None
) -> tuple[Reply, ...]:
    """Let nodes keep ``keep`` states, the one that runs among them; replies as `engine.generation.states.drop` has them, and ``kept``.

    Raises:
        InputError: the limit names no node.
    """
    return _all(inventory, limit, {"keep": keep, "check": check}, send or _send(PRUNE_TIMEOUT_S))


def _all(inventory: Inventory, limit: Sequence[str], question: Mapping[str, Any], send: Send) -> tuple[Reply, ...]:
    def one(host: Host) -> Reply:
        return send(host, errand.connection(inventory, host), "states", question)

    return errand.everywhere(errand.nodes(inventory, limit), one)


def _send(timeout_s: float) -> Send:
    return lambda host, connection, verb, question: errand.send(
        host, connection, verb, question, timeout_s=timeout_s, max_output=errand.MAX_OUTPUT
    )
