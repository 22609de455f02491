"""`appliance install`: verified content in the depot, roles on the nodes, and proof at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import durable, metadata
from engine.memory import Demand
from engine.report import Report
from engine.trust import Target
from installer import __version__
from installer.depot import Depot, targets_of
from installer.site import chain, controlpki, gate, holds, piecelists, prove, sharing, skew, unchanged, waysout
from installer.site import release as releases
from installer.site.events import Failure, Listener, Tracker
from installer.site.inventory import Host, Inventory
from installer.site.ledger import Ledger
from installer.site.lock import exclusive
from installer.site.playbooks import Playbooks
from installer.site.release import Age, Release
from installer.site.rollback import restore
from installer.site.rollout import Means, Rollout, roll
from installer.site.serve import serving
from installer.site.tenants.placing import placed
from installer.site.unchanged import NodeNow
from installer.site.variables import variables as site_variables
from installer.trust import envelope

REPORT = "application/vnd.appliance.report+json"


@dataclass(frozen=True)
class Request:
    """What the operator asked for. ``bundle`` is imported first; None takes ``release`` from the depot."""

    inventory: Inventory
    depot: Depot
    ca_dir: Path
    ca_passphrase: Path
    runs: Path
    site_keys: Path
    bundle: Path | None = None
    release: str = ""
    root: Path | None = None
    check: bool = False
    diff: bool = False
    limit: str = ""
    downgrade: str = ""  # the operator's reason for installing an older release than the newest seen
    approvals: tuple[Path, ...] = ()  # others' agreement to it, where the depot asks for one
    skip_preflight: str = ""  # the operator's reason for not asking the nodes first
    plan: str = ""  # digest of the plan that was approved; anything else is not done
    plan_approvals: tuple[Path, ...] = ()
    full: bool = False  # run the roles on nodes that need nothing, too
    carry_on: bool = False  # past the pauses of the rolling policy

    @property
    def demand(self) -> Demand:
        return Demand(downgrade=self.downgrade, approvals=self.approvals)


@dataclass
class Outcome:
    """The record of a run; written as report.json beside its log."""

    release: str
    check: bool
    started: str
    log: str
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    proof: list[prove.Proof] = field(default_factory=list)
    egress: list[waysout.WaysOut] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)
    preflight_skipped: str = ""
    idle: list[str] = field(default_factory=list)  # nodes that needed nothing
    rollout: Rollout | None = None
    waiting: dict[str, str] = field(default_factory=dict)  # nodes left as they are until their window, and why
    plan: str = ""  # digest of the plan that was followed
    agreed: list[str] = field(default_factory=list)  # who else agreed to it
    imported_bytes: int = 0
    size: int = 0
    good: bool = False

    @property
    def stopped_short(self) -> bool:
        """Whether nodes were left as they are for another reason than a pause that the site asks for."""
        return self.rollout is not None and bool(self.rollout.stopped) and not self.rollout.paused

    @property
    def changed(self) -> int:
        return sum(int(n["changed"]) for n in self.nodes.values())


def install(request: Request, report: Report, listener: Listener) -> Outcome:
    """Run the whole install. Safe to repeat: what is done stays done, what failed is tried again.

    Raises:
        TrustError: the bundle was refused; no node was touched.
        ResourceError: another install runs, or this host lacks something.
    """
    from installer.site import approved  # noqa: PLC0415  it plans with this module

    agreed = approved.require(request, report, listener)
    started = datetime.now(UTC)
    run_dir = request.runs / started.strftime("%Y%m%dT%H%M%S.%fZ")
    run_dir.mkdir(parents=True, mode=0o700)
    outcome = Outcome("", request.check, started.isoformat(timespec="seconds"), str(run_dir / "ansible.log"))
    outcome.plan, outcome.agreed = agreed
    with exclusive(request.runs), _timed(outcome, "total"), ExitStack() as stack:
        with _timed(outcome, "import"):
            release = stack.enter_context(_release(request, outcome, report))
        holds.demand(request.inventory, release.name, targets_of(release.view))
        sharing.demand(request.inventory, release.view)
        outcome.preflight_skipped = request.skip_preflight
        _nodes(request, outcome, release, run_dir, report, listener)
        went_back = bool(outcome.rollout and outcome.rollout.restored)
        if (not outcome.failures or went_back) and not request.check and request.inventory.site.services:
            with _timed(outcome, "prove"):
                # Nodes that went back, or wait, serve another release.
                served = None if went_back or outcome.waiting else release.view
                outcome.proof = prove.all_services(request.inventory, request.ca_dir, request.ca_passphrase, served)
        if not request.check and (hosts := _installed(request, outcome)):
            with _timed(outcome, "egress"):
                outcome.egress = waysout.measured(request.inventory, request.ca_dir, hosts)
        outcome.good = (
            not outcome.failures
            and not outcome.stopped_short
            and all(p.good for p in outcome.proof)
            # What could not be fetched was still demanded on the node, where the role ends with a proof.
            and all(w.good for w in outcome.egress if w.measured)
        )
    _report(request, outcome, run_dir)
    return outcome


def _installed(request: Request, outcome: Outcome) -> list[Host]:
    """Nodes that run the release now, whether or not this run changed them."""
    out = (
        {f.node for f in outcome.failures}
        | outcome.waiting.keys()
        | set(outcome.rollout.left_alone if outcome.rollout else ())
    )
    return [h for h in request.inventory.nodes if h.name in outcome.nodes and h.name not in out]


@dataclass(frozen=True)
class DryRun:
    """What the roles would do, and where it is written. ``targets`` are the release's files by path, ``listed`` is the SHA-256 of their signed list."""

    release: str
    targets: Mapping[str, Target]
    listed: str
    tracker: Tracker
    log: str


def dry_run(request: Request, nodes: Collection[str], report: Report, listener: Listener) -> DryRun:
    """The roles over these nodes without a change, all at once.

    Raises:
        TrustError: the bundle was refused.
        ResourceError: an install runs.
    """
    run_dir = request.runs / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    run_dir.mkdir(parents=True, mode=0o700)
    outcome = Outcome("", True, "", str(run_dir / "ansible.log"))
    with exclusive(request.runs), _release(request, outcome, report) as release:
        targets = targets_of(release.view)
        holds.demand(request.inventory, release.name, targets)
        sharing.demand(request.inventory, release.view)
        age = _age(request, release, [h for h in request.inventory.nodes if h.name in nodes])
        tracker = Tracker(list(nodes), listener, skew.of_release(release.view), request.inventory.conceal)
        books = Playbooks(
            request.inventory,
            run_dir,
            {**_variables(request, release, age), "appliance_inputs": {}},
            tracker,
            True,
            True,
        )
        with placed(request.inventory.tenants, run_dir) as files, _depot_served(request, release.view):
            books.variables = {**books.variables, **files}
            books.run("site.yml", nodes)
        listed = hashlib.sha256(metadata.load(release.view, "targets.json") or b"").hexdigest()
    return DryRun(release.name, targets, listed, tracker, outcome.log)


def _report(request: Request, outcome: Outcome, run_dir: Path) -> None:
    """The record of the run, plain for people and sealed with the site's key as evidence."""
    text = json.dumps(asdict(outcome), indent=1, default=str) + "\n"
    durable.write(run_dir / "report.json", text, mode=0o600)
    if request.check:
        return
    passphrase = request.ca_passphrase.read_text()
    key = envelope.site_key(request.site_keys, passphrase)
    envelope.seal(text, REPORT, run_dir / "report.dsse.json", key, passphrase)


@contextmanager
def _release(request: Request, outcome: Outcome, report: Report) -> Iterator[Release]:
    """The verified release while the block runs. A dry run reads a bundle where it is and imports nothing."""
    depot = request.depot
    if request.bundle is not None and request.check:
        with releases.to_look_at(depot, request.bundle, request.root, report) as found:
            outcome.release = found.name
            yield found
        return
    if request.bundle is None:
        found = releases.of_depot(depot, request.release, request.demand, check=request.check)
    else:
        found = releases.of_bundle(depot, request.bundle, request.root, request.demand, report)
    outcome.release, outcome.imported_bytes, outcome.size = found.name, found.imported_bytes, found.size
    yield found


def _variables(request: Request, release: Release, age: Age) -> dict[str, Any]:
    """What the playbooks are told, beside the digests of the nodes' inputs."""
    return {
        **site_variables(request.inventory, release.name, targets_of(release.view)),
        "appliance_depot_view": str(release.view),
        "appliance_depot_root": str(release.root),
        "appliance_ca_dir": str(request.ca_dir.resolve()),
        "appliance_ca_passphrase_file": str(request.ca_passphrase),
        "appliance_minimum_version": age.minimum_version,
        "appliance_allow_downgrade": age.reason,
    }


def _age(request: Request, release: Release, hosts: Sequence[Host]) -> Age:
    """Whether these hosts may have the release."""
    ask = lambda: unchanged.ask(request.inventory, hosts).values()  # noqa: E731
    everyone = lambda: unchanged.ask(request.inventory, request.inventory.nodes).values()  # noqa: E731
    return releases.age(request.depot, release.name, request.downgrade, ask, everyone)


def _nodes(
    request: Request, outcome: Outcome, release: Release, run_dir: Path, report: Report, listener: Listener
) -> None:
    """Bring every node that needs it to the release."""
    inventory = request.inventory
    chosen = gate.limited(inventory, request.limit)
    hosts = [h for h in inventory.nodes if h.name in chosen]
    now: dict[str, NodeNow] = {}
    view, age = release.view, _age(request, release, hosts)
    if not request.check:
        controlpki.ensure(request.ca_dir, request.ca_passphrase)  # what nodes get of it belongs to their inputs
        with _timed(outcome, "ask"):
            now = unchanged.ask(inventory, hosts)
    made_from = unchanged.inputs(
        inventory, site_variables(inventory, outcome.release, targets_of(view)), view, request.ca_dir
    )
    idle = [n for n, s in now.items() if s.needs_nothing(outcome.release, made_from[n]) and not request.full]
    unchanged.tell(report, now, idle)
    outcome.idle = idle
    outcome.nodes = {h.name: {"ok": 0, "changed": 0, "changes": [], "nothing_yet": False} for h in hosts}
    hosts = [h for h in hosts if h.name not in idle]
    if not request.check:
        Ledger(request.runs).bring_back(idle)
    if not hosts:
        return
    if not request.skip_preflight:
        with _timed(outcome, "preflight"):
            outcome.failures = gate.refusals(inventory, view, release.root, [h.name for h in hosts], report)
        if outcome.failures:
            outcome.nodes, outcome.log = {}, ""  # Ansible was not started
            return
    brings = skew.of_release(view)
    if brings and brings != __version__:
        report.say(f"{outcome.release} brings engine {brings} to nodes; this installer is {__version__}")
    tracker = Tracker([h.name for h in hosts], listener, brings, inventory.conceal)
    variables = {**_variables(request, release, age), "appliance_inputs": made_from}
    books = Playbooks(inventory, run_dir, variables, tracker, request.check, request.diff)
    try:
        with placed(inventory.tenants, run_dir) as files, _depot_served(request, view), _timed(outcome, "nodes"):
            books.variables = {**books.variables, **files}
            if request.check:
                books.run("site.yml", [h.name for h in hosts])
            else:
                means = Means(
                    books.run, lambda host, _release: restore(inventory, host, "current"), tracker, Ledger(request.runs), report,
                    request.carry_on,
                )  # fmt: skip
                outcome.rollout = roll(inventory, hosts, now, outcome.release, means)
    finally:
        outcome.failures = tracker.failures
        outcome.waiting = {n: s.waiting for n, s in tracker.nodes.items() if s.waiting and not s.failure}
        outcome.nodes |= {
            n: {"ok": s.ok, "changed": s.changed, "changes": s.changes, "nothing_yet": s.nothing_yet}
            for n, s in tracker.nodes.items()
        }


@contextmanager
def _depot_served(request: Request, view: Path) -> Iterator[None]:
    """The depot answers nodes while the block runs; a dry run without a CA has nothing to show a certificate to."""
    if request.check and not controlpki.exists(request.ca_dir):
        yield
        return
    control = request.inventory.site.control
    tls = controlpki.server_tls(request.ca_dir, request.ca_passphrase, control.address)
    with serving(view.parent, control.address, control.port, tls, _piece_lists(request, view)):
        yield


def _piece_lists(request: Request, view: Path) -> Path | None:
    """What nodes check relayed pieces with; none where nobody relays."""
    if request.check or not chain.order(request.inventory):
        return None
    place = request.depot.root / "pieces"
    piecelists.ensure(place, request.depot.blobs, targets_of(view).values())
    return place


@contextmanager
def _timed(outcome: Outcome, phase: str) -> Iterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        outcome.phases_s[phase] = round(time.monotonic() - begin, 1)
