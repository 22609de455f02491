"""Take nodes back to a state that they kept: one command a node, no content moves, no Ansible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from installer.site import nodes
from installer.site.inventory import Host, Inventory

SWITCH_TIMEOUT_S = 1800.0  # a large model loads for minutes
CONFIRM_TIMEOUT_S = 30.0
DIAGNOSE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Restored:
    """What became of one node. Times in seconds: ``switched_s`` for the files, ``seconds`` until it ran again.

    ``diagnostics`` is where the node keeps what it knew before the switch.
    """

    node: str
    good: bool
    release: str = ""
    generation: int = 0
    switched_s: float = 0.0
    seconds: float = 0.0
    restarted: tuple[str, ...] = field(default=())
    failure: str = ""
    diagnostics: str = ""


def restore(inventory: Inventory, host: Host, to: str) -> Restored:
    """Switch one node to a generation by its number; `current` undoes what an install left half done.

    Diagnostics are taken first, for the switch ends what could still be looked at. Firewall rules that changed are confirmed through a
    new connection, or the node takes them back itself.
    """
    connection = nodes.connection(inventory, host)
    taken = nodes.call(connection, ["diagnose", "--reason", f"before going to {to}"], timeout_s=DIAGNOSE_TIMEOUT_S)
    kept = str((taken.data or {}).get("path", ""))
    reply = nodes.call(connection, ["generation", "switch", "--to", to], timeout_s=SWITCH_TIMEOUT_S)
    if reply.data is None:
        return Restored(host.name, good=False, failure=reply.failure, diagnostics=kept)
    told: dict[str, Any] = reply.data
    if told.get("confirm"):
        confirmed = nodes.call(connection, ["firewall", "confirm"], timeout_s=CONFIRM_TIMEOUT_S)
        if confirmed.data is None:
            return Restored(
                host.name,
                good=False,
                failure=f"the firewall's rules were not kept: {confirmed.failure}",
                diagnostics=kept,
            )
    try:
        return Restored(
            host.name, True, str(told["release"]), int(told["generation"]), float(told["switched_s"]), float(told["seconds"]),
            tuple(map(str, told["restarted"])), diagnostics=kept,
        )  # fmt: skip
    except (LookupError, TypeError, ValueError):
        return Restored(host.name, good=False, failure="its answer cannot be understood", diagnostics=kept)
