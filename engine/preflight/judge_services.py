"""Whether the node has the GPUs and CPUs that its services ask for: the decision of the install, made before it on what the node said."""

from __future__ import annotations

from collections.abc import Iterator

from engine.placement import topology
from engine.placement.choose import place
from engine.placement.model import Node
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good
from engine.preflight.facts import Facts


def services(facts: Facts, want: Expectation) -> Iterator[Finding]:
    """Every replica finds its GPUs and CPUs. A node whose driver comes with the release cannot tell yet, and the install asks again."""
    asks = [a for a in want.asks if a.gpus or a.indexes or a.cpus]
    if not facts.nvml or facts.nvml.error:
        asks = [a for a in asks if not a.gpus and not a.indexes]
    if not asks or not facts.system:
        return
    numa = {d.address.lower(): d.numa_node for d in facts.pci or ()}
    told = facts.nvml.gpus if facts.nvml else ()
    by_bus = {g.bus: numa[short] for g in told if g.bus and (short := g.bus.lower()[-12:]) in numa}
    refused = place(asks, Node(topology.gpus(told, by_bus), {0: tuple(range(facts.system.cpus))})).refused
    for refusal in refused:
        yield fail(
            "services",
            f"the service {refusal.service} {refusal.what}",
            f"{refusal.remedy[0].upper()}{refusal.remedy[1:]}.",
        )
    if not refused:
        yield good("services", "every service finds its GPUs and CPUs")


RULES: tuple[Rule, ...] = (services,)
