"""`appliance rehearse`: boot nodes, install, ask, look at what they tried, tear down."""

from __future__ import annotations

import os
import secrets
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from engine import durable
from engine.errors import ApplianceError, InputError, TrustError
from engine.process import run
from engine.report import Report, printable
from installer.definition import Definition
from installer.depot import Depot
from installer.evidence import contents
from installer.evidence.contents import Contents
from installer.lab import network
from installer.lab.lab import Lab, demand_root_and_tools, up
from installer.lab.plan import names_of
from installer.lockfile import Lock
from installer.rehearse import attempts, coverage
from installer.rehearse.attempts import Verdict
from installer.rehearse.causes import Cause, causes
from installer.rehearse.shape import Shape, files, like, moved, simplest
from installer.rehearse.stage import place, require_space, take_down
from installer.site import inventory as inventories
from installer.site.events import Listener, NodeState
from installer.site.install import Outcome, install
from installer.site.install import Request as Install

JOURNAL_LINES = 400


@dataclass(frozen=True)
class Request:
    """What to rehearse. ``root``: pinned root of trust. ``model``: without an inventory, which one to serve."""

    bundle: Path
    root: bytes
    inventory: Path | None = None
    model: str = ""
    keep: bool = False


@dataclass
class Rehearsal:
    """What was run and what came of it.

    ``said``: by node that failed, its reason and its services' last words. ``kept``: how to reach nodes that were left.
    ``unresolved``: by node, why apt could not install all packages of the definition.
    """

    release: str
    nodes: dict[str, tuple[str, ...]]
    outcome: Outcome
    verdict: Verdict
    said: dict[str, str]
    causes: dict[str, tuple[Cause, ...]]
    unresolved: dict[str, str]
    unseen_packets: int
    rehearsed: tuple[str, ...]
    not_rehearsed: tuple[str, ...]
    seconds: float = 0.0
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Installed, answered, and nothing tried to get out, as far as it was rehearsed."""
        return (
            self.outcome.good
            and not self.verdict.attempts
            and not self.verdict.blind
            and not self.unresolved
            and not self.unseen_packets
        )

    @property
    def complete(self) -> bool:
        """Nothing was left out of the rehearsal."""
        return not self.not_rehearsed


def rehearse(request: Request, report: Report, listener: Listener) -> Rehearsal:
    """Rehearse a bundle. Nodes and files are gone afterwards, however it ends, unless ``keep`` is set.

    Raises:
        TrustError: the bundle was refused.
        InputError: it cannot be rehearsed here, or the inventory is wrong.
        ResourceError: this machine lacks something.
    """
    begin = time.monotonic()
    account = contents.read(request.bundle, request.root)
    definition = _definition(account)
    shape = planned(definition, account.lock, request.inventory, request.model)
    name = f"rehearse-{secrets.token_hex(3)}"
    with place(name, keep=request.keep) as work:
        require_space(work, account.trusted.size, len(shape.hosts))
        try:
            lab = up(
                name,
                host_names=[h.name for h in shape.hosts],
                watch=True,
                release=shape.release,
                owner_pid=None if request.keep else os.getpid(),
                report=report,
            )
            done = _run(request, account, definition, shape, lab, work, report, listener)
        except BaseException:
            if request.keep:
                report.say(f"the nodes stay; to remove them: {_removal(name, work)}")
            raise
        finally:
            if not request.keep:
                take_down(name, report)
    if request.keep:
        done.kept = {n.name: shlex.join(lab.ssh(n.address)) for n in lab.nodes}
        done.kept["remove"] = _removal(name, work)
    done.seconds = round(time.monotonic() - begin, 1)
    return done


def _removal(name: str, work: Path) -> str:
    return f"appliance lab down {name} && rm -r {work}"


def _definition(account: Contents) -> Definition:
    try:
        return Definition.model_validate(account.definition)
    except ValueError as error:
        raise TrustError(
            "the manifest's definition is not ours",
            where=contents.MANIFEST,
            remedy="It was made by another version of appliance; use that one.",
        ) from error


def planned(definition: Definition, lock: Lock, inventory: Path | None, model: str = "") -> Shape:
    """The shape of a rehearsal, once this machine can carry it out.

    Raises:
        InputError: it cannot be rehearsed here, or the inventory is wrong.
        ResourceError: this machine lacks something.
    """
    demand_root_and_tools()
    machine = os.uname().machine
    if definition.target.arch != machine:
        raise InputError(
            f"the bundle is for {definition.target.arch}, and this machine is {machine}",
            where=definition.release,
            remedy="Rehearse it on a machine of its own kind.",
        )
    if inventory is None:
        return simplest(definition, {p for a in lock.artifacts for p in a.profiles}, model)
    if model:
        raise InputError("--model goes without an inventory", remedy="The inventory says which model is served.")
    return like(inventories.load(inventory), inventories.variables(inventory), definition)


def _run(
    request: Request, account: Contents, definition: Definition, shape: Shape, lab: Lab, work: Path, report: Report, listener: Listener
) -> Rehearsal:  # fmt: skip
    shape = moved(shape, {n.name: n.address for n in lab.nodes}, lab.host_address)
    durable.write(work / "root.json", request.root)
    durable.write(work / "passphrase", secrets.token_urlsafe(24), mode=0o600)
    site = inventories.load(_write(shape, lab, work / "inventory"))
    steps: list[tuple[float, str, str]] = []

    def follow(node: str, its: NodeState, what: str) -> None:
        if what == "task":
            steps.append((time.time(), node, f"{its.role}: {its.task}" if its.role else its.task))
        listener(node, its, what)

    outcome = install(
        Install(
            inventory=site,
            depot=Depot(work / "depot"),
            ca_dir=work / "ca",
            ca_passphrase=work / "passphrase",
            runs=_made(work / "runs"),
            site_keys=work / "site",
            bundle=request.bundle,
            root=work / "root.json",
        ),
        report,
        follow,
    )
    unresolved = coverage.unresolved(lab, shape, definition) if not outcome.failures else {}
    verdict = _verdict(shape, lab, steps)
    said = _said(outcome, lab)
    return Rehearsal(
        release=account.trusted.release,
        nodes={h.name: h.groups for h in shape.hosts},
        outcome=outcome,
        verdict=verdict,
        said=said,
        causes={node: causes(text) for node, text in said.items()},
        unresolved=unresolved,
        # What was seen may well have left the node; what was not seen must not have.
        unseen_packets=0 if verdict.outward else network.left(names_of(lab.name)),
        rehearsed=coverage.run(outcome, shape, definition, account.lock, unresolved),
        not_rehearsed=(*shape.gaps, *coverage.carried_only(definition, shape)),
    )


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory


def _write(shape: Shape, lab: Lab, directory: Path) -> Path:
    connection = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o ConnectTimeout=5",
    }
    for name, document in files(shape, connection).items():
        durable.write(directory / name, yaml.safe_dump(document, sort_keys=True))
    return directory


def _verdict(shape: Shape, lab: Lab, steps: list[tuple[float, str, str]]) -> Verdict:
    excuses = [
        attempts.inside([lab.host_address, *(n.address for n in lab.nodes)]),
        *attempts.HARMLESS,
        *(attempts.declared(flow) for flow in shape.site.egress),
    ]
    seen, blind = {}, []
    for node in lab.nodes:
        seen[node.name], unseen = attempts.read(lab.sightings(node).read_text())
        blind += [f"{node.name}: {reason}" for reason in unseen]
        if not seen[node.name]:
            # Every node fetches from the depot; a watch that did not see that saw nothing.
            blind.append(f"{node.name}: the watch saw nothing at all, not even how the node fetched its content")
    found, excused = attempts.judge(seen, excuses, steps)
    return Verdict(found, excused, tuple(blind))


def _said(outcome: Outcome, lab: Lab) -> dict[str, str]:
    """For every node that failed or could not prove itself: what its task said, then what its services said."""
    addresses = {n.name: n.address for n in lab.nodes}
    unproven = {p.gateway for p in outcome.proof if not p.good}
    reasons = {f.node: f.reason for f in outcome.failures} | dict.fromkeys(unproven, "")
    found = {}
    for node, reason in reasons.items():
        journal = ""
        with suppress(ApplianceError):  # an unreachable node has said all it could
            ask = f"journalctl --no-pager --output=cat --lines={JOURNAL_LINES} --unit='appliance-*'"
            journal = run([*lab.ssh(addresses[node]), ask], timeout_s=30).stdout
        found[node] = printable(f"{reason}\n{journal}".strip())
    return found
