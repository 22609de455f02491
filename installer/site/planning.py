"""Make a plan: the roles in a dry run on every node, and the lists of both releases side by side. Changes nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from engine import verify
from engine.errors import ApplianceError, NodeError
from engine.placement.record import FILE
from engine.report import Report
from engine.trust import Target
from installer.depot import targets_of
from installer.site import gate, holds, placed, unchanged
from installer.site import release as releases
from installer.site.events import Listener, NodeState
from installer.site.install import Request, dry_run
from installer.site.inventory import Inventory
from installer.site.plan import ContentChange, NodePlan, Plan, batches_of, content_changes, file_change
from installer.site.rollout import batches, order, services
from installer.site.steps import words_of
from installer.site.unchanged import NodeNow

# What stays of a change; elsewhere the roles unpack and remove, and content has its own list.
LASTING = ("/etc/", "/opt/appliance/current")


def make(request: Request, report: Report, listener: Listener) -> Plan:
    """The plan of an install.

    Raises:
        ApplianceError: a node cannot be asked, or its dry run fails; a plan that leaves out a node would be none.
    """
    inventory = request.inventory
    chosen = gate.limited(inventory, request.limit)
    hosts = [h for h in inventory.nodes if h.name in chosen]
    _require_held(request)  # before any node is asked: what is missing on this host needs no node to be named
    now = unchanged.ask(inventory, hosts)
    if lost := [n for n in now.values() if not n.reached]:
        raise NodeError(
            "\n".join(f"{n.node} cannot be asked: {n.drift[0]}" for n in lost),
            where=str(inventory.path),
            remedy=f"Fix {'it, or leave it' if len(lost) == 1 else 'them, or leave them'} out with --limit.",
        )
    run = dry_run(request, [h.name for h in hosts], report, listener)
    if run.tracker.failures:
        first = run.tracker.failures[0]
        raise ApplianceError(
            f"the dry run fails on {first.node} in “{words_of(first.role)}: {first.task}”: {first.reason}",
            where=run.log,
            remedy="Fix the cause.",
        )
    nodes = tuple(_node(inventory, now[h.name], run.release, run.tracker.nodes[h.name]) for h in hosts)
    leaving = {n.node: frozenset(n.leaves) for n in nodes}
    busy = order(inventory, [n.node for n in nodes if n.tasks or n.blind], now)
    return Plan(
        run.release,
        run.listed,
        nodes,
        tuple(map(tuple, batches(inventory, busy, leaving, now))),
        _content(request, now, run.release, run.targets),
        {
            "rolling": inventory.site.rolling.model_dump(mode="json"),
            "gate": inventory.site.gate.model_dump(mode="json"),
        },
    )


def _require_held(request: Request) -> None:
    """Refuse a release that lacks a model of the site. Of a bundle the metadata alone is verified here; the dry run checks its files.

    Raises:
        InputError: names every service whose model is not there.
        TrustError: the bundle's metadata was refused.
    """
    depot = request.depot
    if request.bundle is None:
        found = releases.of_depot(depot, request.release, request.demand, check=True)
        holds.demand(request.inventory, found.name, targets_of(found.view))
    elif depot.pinned_root.is_file() or request.root:
        trusted = verify.open_bundle(request.bundle, depot.pin(request.root))
        holds.demand(request.inventory, trusted.release, trusted.targets)


def estimate(runs: Path, made: Plan) -> float | None:
    """Minutes that the plan takes, from what earlier installs took for each of their batches; None when there was none."""
    took = []
    for path in sorted(runs.glob("*/report.json"))[-20:]:
        try:
            told = json.loads(path.read_text())
            count = len((told.get("rollout") or {}).get("batches") or ())
            if count and told.get("good"):
                took.append(float(told["phases_s"]["nodes"]) / count)
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return round(statistics.median(took) * len(batches_of(made)) / 60, 1) if took and made.changes else None


def _node(inventory: Inventory, now: NodeNow, release: str, state: NodeState) -> NodePlan:
    kept = {path: texts for path, texts in sorted(state.diffs.items()) if path.startswith(LASTING)}
    files = tuple(file_change(path, before, after) for path, (before, after) in kept.items())
    host = next(h for h in inventory.nodes if h.name == now.node)
    written = state.diffs.get(str(FILE), ("", ""))[1]
    upgrading = now.generation > 0 and now.release != release
    return NodePlan(
        now.node, now.release, tuple(state.changes), files, state.fetch_bytes,
        tuple(sorted(services(inventory, now.node))) if upgrading else (),
        any("eboot" in task for task in state.changes), placed.of_node(inventory.site, host, written), not now.release,
    )  # fmt: skip


def _content(
    request: Request, now: Mapping[str, NodeNow], release: str, after: Mapping[str, Target]
) -> tuple[ContentChange, ...]:
    """Against the release that most nodes run, as far as the depot still has it."""
    running = [n.release for n in now.values() if n.release and n.release != release]
    if not running and any(n.release for n in now.values()):
        return ()
    common = max(set(running), key=running.count) if running else ""
    before = targets_of(request.depot.view(common)) if common in request.depot.releases() else None
    return content_changes(before, after)
