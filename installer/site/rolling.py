"""How a change walks through the nodes: in which batches, and when it must stop. Pure.

Ansible's own `serial` and `max_fail_percentage` count within one play: a node that was lost in an earlier play or batch, or in an earlier
run, is forgotten. Here the count is the site's: who is out of service now, for whatever reason, counts against every batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

Share = int | str  # a number of nodes, or "25%"


@dataclass(frozen=True)
class Policy:
    """What the site allows.

    Attributes:
        batches: sizes of the batches in turn, the last one repeats; numbers, or shares of all nodes.
        max_failed_percent: share of all nodes that may fail before the rest is left alone.
        max_unavailable: nodes that may be out of service at once; None for as many as the largest batch.
        per_service: nodes of one service that may be out of service at once.
        pause_after: numbers of batches after which a person decides, from 1.
    """

    batches: tuple[Share, ...] = (1,)
    max_failed_percent: int = 0
    max_unavailable: Share | None = None
    per_service: int = 1
    pause_after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Batches in their order."""

    batches: tuple[tuple[str, ...], ...]


def count(share: Share, total: int) -> int:
    """Nodes that a share means; at least one, and a share of a node does not count."""
    if isinstance(share, int):
        return max(1, share)
    return max(1, total * int(share.rstrip("%")) // 100)


def plan(nodes: Sequence[str], serving: Mapping[str, AbstractSet[str]], policy: Policy, total: int) -> Plan:
    """Put the nodes into batches.

    Args:
        nodes: that are to change, in the order of the inventory.
        serving: which services each takes out while it changes; none for a node that does not serve yet.
        total: nodes of the site, which shares refer to.
    """
    left = list(nodes)
    made: list[tuple[str, ...]] = []
    sizes = [count(s, total) for s in policy.batches]
    most = limit(policy, total)
    while left:
        size = min(sizes[min(len(made), len(sizes) - 1)], max(1, most))
        batch: list[str] = []
        busy: dict[str, int] = {}
        for node in left:
            services = serving.get(node, frozenset())
            if len(batch) < size and all(busy.get(s, 0) < policy.per_service for s in services):
                batch.append(node)
                for service in services:
                    busy[service] = busy.get(service, 0) + 1
        left = [n for n in left if n not in batch]
        made.append(tuple(batch))
    return Plan(tuple(made))


def limit(policy: Policy, total: int) -> int:
    """How many nodes may be out of service at once."""
    if policy.max_unavailable is not None:
        return count(policy.max_unavailable, total)
    return max(count(s, total) for s in policy.batches)


def obstacle(
    batch: Sequence[str],
    serving: Mapping[str, AbstractSet[str]],
    out: Mapping[str, AbstractSet[str]],
    policy: Policy,
    total: int,
) -> str:
    """Why this batch must not begin, in words; empty when it may.

    Args:
        serving: services that each node of the batch takes out; a node without any takes nothing out.
        out: who is out of service already, and of which services.
    """
    leaving = [n for n in batch if serving.get(n)]
    elsewhere = [n for n in out if n not in batch]
    most = limit(policy, total)
    if leaving and len(leaving) + len(elsewhere) > most:
        return (
            f"{len(elsewhere)} nodes are out of service ({', '.join(sorted(elsewhere))}), {len(leaving)} more would be; the site allows {most}"
            if elsewhere
            else f"{len(leaving)} nodes would be out of service at once; the site allows {most}"
        )
    for service in sorted({s for n in leaving for s in serving[n]}):
        missing = [n for n in elsewhere if service in out[n]]
        if len(missing) + sum(service in serving[n] for n in leaving) > policy.per_service:
            return f"{service} is served by one node less already ({', '.join(sorted(missing))}); the site allows {policy.per_service} at once"
    return ""


def too_many(failed: int, total: int, policy: Policy) -> bool:
    """Whether more nodes failed than the site allows."""
    return failed * 100 > policy.max_failed_percent * total
