"""The change of a site: all nodes get their content while they serve, then batch after batch is changed, and what fails goes back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from engine.report import Report
from installer.site import rolling
from installer.site import services as on_node
from installer.site.events import Tracker
from installer.site.inventory import Host, Inventory
from installer.site.ledger import Ledger
from installer.site.rollback import Restored
from installer.site.settings import Rolling
from installer.site.unchanged import NodeNow

Play = Callable[[str, Collection[str]], None]  # a playbook's name, and the nodes
Restore = Callable[[Host, str], Restored]


@dataclass
class Rollout:
    """What happened. ``stopped`` says why nodes were left as they are; ``paused`` is the batch after which a person decides."""

    batches: list[list[str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    restored: dict[str, Restored] = field(default_factory=dict)
    left_alone: list[str] = field(default_factory=list)
    stopped: str = ""
    paused: int = 0


@dataclass(frozen=True)
class Means:
    """What a rollout works with; the tests give it others."""

    play: Play
    restore: Restore
    tracker: Tracker
    ledger: Ledger
    report: Report
    carry_on: bool = False  # past the pauses of the policy


def policy(site: Rolling) -> rolling.Policy:
    """The inventory's words as the rules know them."""
    batches = site.batch if isinstance(site.batch, tuple) else (site.batch,)
    return rolling.Policy(batches, site.max_failed_percent, site.max_unavailable, site.per_service, site.pause_after)


def order(
    inventory: Inventory, names: Collection[str], now: Mapping[str, NodeNow], out: Container[str] = ()
) -> list[str]:
    """Nodes in the order in which they change.

    Nodes that come into service behind a gateway go first, so that no gateway is told of one that is not ready. Then those that are out of
    service already (``out``): fixing them takes nobody else out, and the others may have to wait for it. Gateways in front of other nodes
    go last.
    """
    behind = {h.name for h in inventory.in_group("gpu")}
    joining = _joining(inventory, names, now)
    return sorted(names, key=lambda name: (name not in joining, name not in out, name not in behind))


def batches(
    inventory: Inventory,
    ordered: Collection[str],
    leaving: Mapping[str, AbstractSet[str]],
    now: Mapping[str, NodeNow],
) -> list[list[str]]:
    """Put nodes, as ``order`` has them, into the batches of the site's policy. Nodes that join a site that serves have batches of their own,
    so that they are ready before a gateway is told of them.

    Args:
        leaving: services that each node takes out while it changes.
    """
    rules, total = policy(inventory.site.rolling), len(inventory.nodes)
    joining = _joining(inventory, ordered, now)
    rest = [n for n in ordered if n not in joining]
    if not joining or not any(now[n].generation for n in rest if n in now):
        return [list(b) for b in rolling.plan(list(ordered), leaving, rules, total).batches]
    first = rolling.plan([n for n in ordered if n in joining], leaving, rules, total).batches
    later = replace(
        rules, batches=rules.batches[len(first) :] or rules.batches[-1:], max_unavailable=rolling.limit(rules, total)
    )
    return [list(b) for b in (*first, *rolling.plan(rest, leaving, later, total).batches)]


def _joining(inventory: Inventory, names: Collection[str], now: Mapping[str, NodeNow]) -> set[str]:
    """Nodes that serve models and have no state that worked yet."""
    behind = {h.name for h in inventory.in_group("gpu")}
    return {n for n in names if n in behind and (n not in now or not now[n].generation)}


def absences(inventory: Inventory, ledger: Ledger) -> dict[str, frozenset[str]]:
    """Which nodes of the inventory are out of service, and of which services. A node that was taken out of the inventory takes nothing
    out of service any more."""
    here = {h.name for h in inventory.nodes}
    return {n: frozenset(a.services) for n, a in ledger.out.items() if n in here}


def roll(
    inventory: Inventory, hosts: Collection[Host], now: Mapping[str, NodeNow], release: str, means: Means
) -> Rollout:
    """Prepare ``hosts``, then change them batch by batch.

    Args:
        now: what every node said of itself before.
    """
    made, rules, total = Rollout(), policy(inventory.site.rolling), len(inventory.nodes)
    names = [h.name for h in hosts]
    means.play("prepare.yml", names)
    failed = set(_failed(means.tracker))
    ready = [n for n in names if n not in failed]
    if rolling.too_many(len(failed), total, rules):
        made.left_alone, made.stopped = ready, f"{len(failed)} of {total} nodes could not be prepared"
        return made
    ready = order(inventory, ready, now, means.ledger.out)
    leaving = {n: services(inventory, n) if _serves(now.get(n), release) else frozenset[str]() for n in ready}
    made.batches = batches(inventory, ready, leaving, now)
    for number, batch in enumerate(made.batches, 1):
        if why := rolling.obstacle(batch, leaving, absences(inventory, means.ledger), rules, total):
            return _stop(made, number, why)
        means.report.say(f"batch {number} of {len(made.batches)}: {', '.join(batch)}")
        means.ledger.take_out({n: leaving[n] for n in batch}, f"changing to {release}")
        means.play("converge.yml", batch)
        broken = [n for n in _failed(means.tracker) if n in batch]
        good = [n for n in batch if n not in broken]
        means.ledger.bring_back(good)
        made.done += [n for n in good if not means.tracker.nodes[n].waiting]
        _restore(inventory, broken, now, means, made)
        failed |= set(broken)
        if rolling.too_many(len(failed), total, rules) and number < len(made.batches):
            return _stop(
                made, number + 1, f"{len(failed)} of {total} nodes failed; the site allows {rules.max_failed_percent} %"
            )
        if number in rules.pause_after and number < len(made.batches) and not means.carry_on:
            made.paused = number
            return _stop(made, number + 1, f"the site pauses after batch {number}; go on with --continue")
    return made


def services(inventory: Inventory, node: str) -> frozenset[str]:
    """What a node takes out of service with itself. The edge that clients reach is a service, too."""
    host = next(h for h in inventory.nodes if h.name == node)
    served = {s.name for s in on_node.services(inventory.site, host)}
    return frozenset(served | ({"gateway"} if "gateway" in host.groups and inventory.site.services else set()))


def _serves(now: NodeNow | None, release: str) -> bool:
    """Whether changing the node takes it out: it runs another release than the one that comes."""
    return now is not None and now.generation > 0 and now.release != release


def _failed(tracker: Tracker) -> list[str]:
    return [f.node for f in tracker.failures]


def _stop(made: Rollout, number: int, why: str) -> Rollout:
    made.left_alone = [n for batch in made.batches[number - 1 :] for n in batch]
    made.stopped = why
    return made


def _restore(
    inventory: Inventory, broken: Collection[str], now: Mapping[str, NodeNow], means: Means, made: Rollout
) -> None:
    """Take nodes that failed back to what they ran; one that had nothing before stays as it is, for the next run."""
    for name in broken:
        before = now.get(name)
        if before is None or not before.generation:
            continue
        host = next(h for h in inventory.nodes if h.name == name)
        means.report.say(f"{name}: going back to {before.release}")
        restored = means.restore(host, before.release)
        made.restored[name] = restored
        if restored.good:
            means.ledger.bring_back([name])
            means.report.say(f"{name}: serves {before.release} again, after {restored.seconds:.1f} s")
        else:
            means.ledger.explain(name, restored.failure)
            means.report.say(f"{name}: NOT BACK: {restored.failure}")
