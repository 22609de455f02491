"""`appliance install`: verified content in the depot, roles on the nodes, and proof at the end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import durable, verify
from engine.errors import InputError, ResourceError, TrustError
from engine.memory import Demand
from engine.report import Report
from installer import product
from installer.depot import Depot, targets_of
from installer.site import chain, controlpki, gate, piecelists, prove
from installer.site.events import Failure, Listener, Tracker
from installer.site.inventory import Inventory
from installer.site.serve import serving
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
    phases_s: dict[str, float] = field(default_factory=dict)
    preflight_skipped: str = ""
    imported_bytes: int = 0
    size: int = 0
    good: bool = False

    @property
    def changed(self) -> int:
        return sum(int(n["changed"]) for n in self.nodes.values())


def install(request: Request, report: Report, listener: Listener) -> Outcome:
    """Run the whole install. Safe to repeat: what is done stays done, what failed is tried again.

    Raises:
        TrustError: the bundle was refused; no node was touched.
        ResourceError: another install runs, or this host lacks something.
    """
    started = datetime.now(UTC)
    run_dir = request.runs / started.strftime("%Y%m%dT%H%M%S.%fZ")
    run_dir.mkdir(parents=True, mode=0o700)
    outcome = Outcome("", request.check, started.isoformat(timespec="seconds"), str(run_dir / "ansible.log"))
    with _lock(request.runs), _timed(outcome, "total"):
        with _timed(outcome, "import"):
            view, root = _content(request, outcome, report)
        outcome.preflight_skipped = request.skip_preflight
        if not request.skip_preflight:
            with _timed(outcome, "preflight"):
                outcome.failures = gate.refusals(request.inventory, view, root, request.limit, report)
        if not outcome.failures:
            with _timed(outcome, "nodes"):
                tracker = _converge(request, outcome, view, root, run_dir, listener)
            outcome.failures = tracker.failures
            outcome.nodes = {
                n: {"ok": s.ok, "changed": s.changed, "changes": s.changes} for n, s in tracker.nodes.items()
            }
        else:
            outcome.log = ""  # Ansible was not started
        if not outcome.failures and not request.check and request.inventory.site.services:
            with _timed(outcome, "prove"):
                outcome.proof = prove.all_services(request.inventory, request.ca_dir, request.ca_passphrase)
        outcome.good = not outcome.failures and all(p.good for p in outcome.proof)
    _report(request, outcome, run_dir)
    return outcome


def _report(request: Request, outcome: Outcome, run_dir: Path) -> None:
    """The record of the run, plain for people and sealed with the site's key as evidence."""
    text = json.dumps(asdict(outcome), indent=1, default=str) + "\n"
    durable.write(run_dir / "report.json", text, mode=0o600)
    if request.check:
        return
    passphrase = request.ca_passphrase.read_text()
    key = envelope.site_key(request.site_keys, passphrase)
    envelope.seal(text, REPORT, run_dir / "report.dsse.json", key, passphrase)


def _content(request: Request, outcome: Outcome, report: Report) -> tuple[Path, Path]:
    """Directory of the verified release, and the pinned root. A dry run reads the bundle where it is and imports nothing."""
    depot = request.depot
    if request.bundle is None:
        outcome.release = request.release or _newest(depot)
        view = depot.view(outcome.release)
        if request.downgrade and not request.check:
            # Going back to what is here already is the same step as importing it: asked for, agreed to and on record once.
            with depot.exclusive():
                depot.open(view, None, request.demand)
        return view, depot.pinned_root
    if not request.check:
        imported = depot.import_bundle(request.bundle, root_json=request.root, demand=request.demand, report=report)
        outcome.release, outcome.imported_bytes, outcome.size = (
            imported.trusted.release,
            imported.copied,
            imported.trusted.size,
        )
        return imported.view, depot.pinned_root
    root = depot.pinned_root if depot.pinned_root.is_file() else request.root
    if root is None:
        raise InputError(
            "no root of trust is pinned yet",
            where=str(depot.root),
            remedy="Give --root with the root.json you received on another way than the bundle.",
        )
    checked = verify.verify(request.bundle, depot.root_of_trust(root), report=report)
    if not checked.good:
        first = checked.findings[0]
        raise TrustError(
            f"{len(checked.findings)} files are not as signed, first {first.path} ({first.problem})",
            where=str(request.bundle),
            remedy="`appliance verify` lists every such file.",
        )
    outcome.release = checked.trusted.release
    return request.bundle.resolve(), root.resolve()


def _newest(depot: Depot) -> str:
    releases = depot.releases()
    if len(releases) != 1:
        raise InputError(
            f"the depot has {len(releases)} releases",
            where=str(depot.root),
            remedy="Give the bundle's directory, or --release NAME-VERSION.",
        )
    return releases[0]


def _converge(request: Request, outcome: Outcome, view: Path, root: Path, run_dir: Path, listener: Listener) -> Tracker:
    import ansible_runner  # noqa: PLC0415  slow to import; --help and completion must not wait for it

    inventory = request.inventory
    playbooks = product.data("playbooks")
    tracker = Tracker([h.name for h in inventory.hosts if h.groups != ("control",)], listener)
    variables: dict[str, Any] = {
        **site_variables(inventory, outcome.release, targets_of(view)),
        "appliance_depot_view": str(view),
        "appliance_depot_root": str(root),
        "appliance_ca_dir": str(request.ca_dir.resolve()),
        "appliance_ca_passphrase_file": str(request.ca_passphrase),
        "appliance_minimum_version": _minimum_version(request, outcome.release),
        "appliance_allow_downgrade": request.downgrade,
    }
    (run_dir / "runner").mkdir(mode=0o700)
    arguments = [*(["--check"] if request.check else []), *(["--diff"] if request.diff else [])]
    # Connections are shared within this run only; the directory's name is short because a socket's path must be.
    with (
        _depot_served(request, view),
        tempfile.TemporaryDirectory(prefix="appl-") as connections,
        _interruptible() as interrupted,
    ):
        result = ansible_runner.run(
            private_data_dir=str(run_dir / "runner"),
            playbook=str(playbooks / "site.yml"),
            inventory=str(inventory.path.resolve()),
            extravars=variables,
            limit=request.limit or None,
            cmdline=" ".join(arguments) or None,
            envvars={
                "ANSIBLE_CONFIG": str(playbooks / "ansible.cfg"),
                "PATH": f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', '')}",
                "ANSIBLE_SSH_CONTROL_PATH_DIR": connections,
                # ansible-runner turns the check off unless it is named here.
                "ANSIBLE_HOST_KEY_CHECKING": "True",
                "PYTHONPATH": str(product.PACKAGE.parent),
            },
            event_handler=tracker.handle,
            cancel_callback=interrupted,
            quiet=True,
        )
    log = Path(result.config.artifact_dir) / "stdout"
    durable.write(run_dir / "ansible.log", log.read_bytes() if log.exists() else b"", mode=0o600)
    if result.rc != 0 and not tracker.failures:
        lines = (run_dir / "ansible.log").read_text(errors="replace").strip().splitlines()
        raise InputError(
            f"Ansible stopped before it reached a node: {' '.join(lines[-3:])[-600:]}",
            where=str(run_dir / "ansible.log"),
            remedy="Mend what it names.",
        )
    return tracker


def _minimum_version(request: Request, release: str) -> int:
    """What nodes must not go behind: the newest version of that name that this control host has seen.

    Raises:
        TrustError: the release is older, and nobody said that this is meant.
    """
    if not request.depot.pinned_root.is_file() or request.downgrade:
        return 0
    name, version = request.depot.identity(release)
    newest = request.depot.memory().version(name) if name else 0
    if version < newest:
        raise TrustError(
            f"{release} (version {version}) is older than the newest {name} seen here (version {newest})",
            where=str(request.depot.root),
            remedy="Install the newest, or give the reason for going back with --allow-downgrade.",
        )
    return newest


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
def _interruptible() -> Iterator[Callable[[], bool]]:
    """An interruption ends Ansible first and then this block. (ansible-runner's own handlers stay in force after it and would
    swallow every later one.)

    Raises:
        KeyboardInterrupt: at the end of the block, when there was one.
    """
    asked = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    before = {n: signal.signal(n, lambda _number, _frame: asked.set()) for n in numbers} if main else {}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.is_set():
        raise KeyboardInterrupt


@contextmanager
def _lock(runs: Path) -> Iterator[None]:
    """Two installs at once would undo each other's steps."""

    with (runs / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                "another install is running on this control host", where=str(runs), remedy="Wait for it to end."
            ) from error
        yield


@contextmanager
def _timed(outcome: Outcome, phase: str) -> Iterator[None]:
    begin = time.monotonic()
    try:
        yield
    finally:
        outcome.phases_s[phase] = round(time.monotonic() - begin, 1)
