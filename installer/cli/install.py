"""Commands on the control host: import and install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.nextstep import given
from installer.cli.options import (
    DEFAULT_CA,
    DEFAULT_DEPOT,
    DEFAULT_RUNS,
    DEFAULT_SITE_KEYS,
    AllowDowngrade,
    Approvals,
    DepotDir,
    PassphraseFile,
    Root,
    SiteKeys,
    require_downgrade,
    screen_of,
)
from installer.cli.screen import Screen, counted, size

if TYPE_CHECKING:
    from engine.memory import Demand
    from installer.depot import Depot
    from installer.site.events import Listener, NodeState

InventoryDir = Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")]
CaDir = Annotated[
    Path, typer.Option("--ca", help="Directory of the site's certificate authority; made on the first install.")
]


def import_bundle(
    ctx: typer.Context,
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundle, delta or renewal; or volumes, any number in any order.", metavar="BUNDLE..."),
    ],
    depot: DepotDir = DEFAULT_DEPOT,
    root: Root = None,
    minimum_version: Annotated[
        int, typer.Option(help="Refuse anything older; for the first import, from the release note.", metavar="VERSION")
    ] = 0,
    allow_downgrade: AllowDowngrade = "",
    approval: Approvals = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Make the bundle's files the depot's instead of copying them, on one file system. Write nothing into the bundle afterwards.",
        ),
    ] = False,
) -> None:
    """Verify a bundle and take it into the depot.

    The first import pins the root of trust given with --root. An older bundle than the newest seen is refused.
    A stopped import continues where it was. Files that the depot has need not come again: what `appliance renew` wrote
    (metadata alone) renews a bundle that is here.

    Volumes are kept until the last one completes the release; each may be taken in again.

    \b
    Examples:
      appliance import --root root.json /media/drive/demo-1.0.0
      appliance import /media/a/demo-1.0.0.2-of-5
    """
    from engine.errors import InputError
    from engine.memory import Demand
    from installer.carry.volumes import is_volume
    from installer.depot import Depot

    screen = screen_of(ctx)
    require_downgrade(approval, allow_downgrade)
    demand = Demand(minimum_version, allow_downgrade, tuple(approval or ()))
    if is_volume(bundles[0]):
        _import_volumes(screen, Depot(depot), bundles, root, demand)
        return
    if len(bundles) > 1:
        raise InputError("more than one bundle", where=str(bundles[1]), remedy="Import one after the other.")
    with screen:
        done = Depot(depot).import_bundle(bundles[0], root_json=root, demand=demand, report=screen, link=link)
    screen.result(
        {
            "release": done.trusted.release,
            "version": done.trusted.version,
            "changed": done.changed,
            "copied": done.copied,
            "size": done.trusted.size,
            "view": str(done.view),
        },
        f"{done.trusted.release}: imported, {size(done.copied)} copied of {size(done.trusted.size)}"
        if done.changed
        else f"{done.trusted.release} is in the depot already; nothing changed",
    )


def _import_volumes(screen: Screen, depot: Depot, bundles: list[Path], root: Path | None, demand: Demand) -> None:
    from installer.carry.taking import take_in

    copied = 0
    with screen:
        for volume in bundles:
            taken = take_in(depot, volume, root_json=root, demand=demand, report=screen)
            copied += taken.copied
    waiting = ", ".join(map(str, taken.waiting))
    screen.result(
        {
            "release": taken.trusted.release,
            "version": taken.trusted.version,
            "copied": copied,
            "complete": taken.view is not None,
            "missing": taken.missing,
            "missing_size": taken.missing_size,
            "waiting_for": list(taken.waiting),
        },
        f"{taken.trusted.release}: complete, imported"
        if taken.view
        else f"{taken.trusted.release}: {size(copied)} taken in; {counted(taken.missing, 'file')} ({size(taken.missing_size)}) {'is' if taken.missing == 1 else 'are'} still missing, on volume {waiting}",
    )


def install(
    ctx: typer.Context,
    inventory: InventoryDir,
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle directory; the depot's release when left out.", metavar="BUNDLE")
    ] = None,
    depot: DepotDir = DEFAULT_DEPOT,
    root: Root = None,
    ca: CaDir = DEFAULT_CA,
    runs: Annotated[
        Path, typer.Option("--runs", help="Where the log and report of every run are kept.")
    ] = DEFAULT_RUNS,
    site_keys: SiteKeys = DEFAULT_SITE_KEYS,
    release: Annotated[str, typer.Option("--release", help="Release of the depot to install, NAME-VERSION.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Show what would change; change nothing.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Keep the differences of files in the log.")] = False,
    limit: Annotated[str, typer.Option("--limit", help="Only these nodes (an Ansible pattern).")] = "",
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="Do exactly what this plan says, or nothing: its digest, or the file that `appliance plan --out` wrote.",
        ),
    ] = "",
    plan_approval: Annotated[
        list[Path] | None, typer.Option("--plan-approval", help="What `appliance approve-plan` wrote; may be repeated.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Run the roles on every node, also where nothing has changed since the last install."
        ),
    ] = False,
    carry_on: Annotated[
        bool, typer.Option("--continue", help="Go on past the pauses of the site's rolling policy.")
    ] = False,
    allow_downgrade: AllowDowngrade = "",
    approval: Approvals = None,
    skip_preflight: Annotated[
        str,
        typer.Option(
            "--skip-preflight", metavar="REASON", help="Do not ask the nodes first; the reason goes into the report."
        ),
    ] = "",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Install a release on the nodes of an inventory.

    Asks the nodes first whether they are fit (`appliance preflight`, without what takes long) and changes none when one is not.
    Verifies and imports the bundle, serves it to the nodes while the install runs, converges every node with the roles,
    and ends with proof: a token through mutual TLS, and a refused attempt to get out. A second run changes nothing.
    The run's report is signed with the site's key (`appliance report` checks it).

    All nodes get their content before the first is changed; then they change batch by batch as the site's rolling policy says. A node
    that goes from one release to another is drained, upgraded, measured against itself before, and only then serves again; one that
    fails goes back to its release by itself. A node that would have to restart outside of its maintenance window waits: it serves what it
    had, the exit code is 7, and the same command in the window completes it. When a node fails, the rest go on only as far as the policy allows; run the same command
    again to complete.

    \b
    Examples:
      appliance install -i inventories/example --root root.json /media/drive/demo-1.0.0
      appliance install -i inventories/example --check
    """
    from dataclasses import asdict

    from engine.errors import Exit, InputError
    from installer.cli.outcome import following, page
    from installer.depot import Depot
    from installer.site import inventory as inventories
    from installer.site import records
    from installer.site.gate import check_reason
    from installer.site.install import Request
    from installer.site.install import install as run_install
    from installer.site.serve import other_server
    from installer.trust.secret import passphrase, private_copy

    if bundle is not None and release:
        raise InputError("both a bundle and --release are given", remedy="Give one of them.")
    check_reason(skip_preflight)
    screen = screen_of(ctx)
    require_downgrade(approval, allow_downgrade)
    site = inventories.load(inventory)
    other_server(screen.say)
    secret = passphrase(passphrase_file, purpose=f"the site's certificate authority in {ca}")
    with screen, private_copy(secret) as secret_file:
        request = Request(
            inventory=site, depot=Depot(depot), ca_dir=ca, ca_passphrase=secret_file, runs=runs, bundle=bundle, release=release,
            root=root, check=check, diff=diff, limit=limit, downgrade=allow_downgrade, approvals=tuple(approval or ()),
            site_keys=site_keys, skip_preflight=skip_preflight, full=full, carry_on=carry_on,
            plan=planned(plan), plan_approvals=tuple(plan_approval or ()),
        )  # fmt: skip
        screen.whole("install --check" if check else "install", records.last_seconds(runs, check=check))
        outcome = run_install(request, screen, listener(screen))
    screen.result(asdict(outcome), page(outcome))
    if not outcome.good:
        raise typer.Exit(Exit.NODE)
    if outcome.waiting:
        raise typer.Exit(Exit.WAITING)
    same = (
        "-i", inventory, *given("--depot", depot, DEFAULT_DEPOT), *given("--root", root), *given("--ca", ca, DEFAULT_CA),
        *given("--runs", runs, DEFAULT_RUNS), *given("--site-keys", site_keys, DEFAULT_SITE_KEYS), *given("--release", release),
        *given("--limit", limit), *given("--allow-downgrade", allow_downgrade), *(w for a in approval or () for w in ("--approval", a)),
        *((bundle,) if bundle else ()),
    )  # fmt: skip
    screen.next(*following(outcome, site, same, ca, inventory))


def planned(named: str) -> str:
    """The digest of a plan that is named by its digest or by its file.

    Raises:
        InputError: it is neither a digest nor a file with a plan.
    """
    import re

    from installer.trust import planapproval

    if not named or re.fullmatch(r"(sha256:)?[0-9a-f]{64}", named):
        return named
    return f"sha256:{planapproval.digest_of(Path(named))}"


def listener(screen: Screen) -> Listener:
    """Each node's current step as one live line, and a line for each step that did something, each change and failure.

    Ansible starts every task, also those of roles that a node does not need, and skips them then: a step is told of when a task of it
    was not skipped.
    """
    from installer.site.owned import order
    from installer.site.steps import step_of, task_words

    numbers = order()
    told: dict[str, set[str]] = {}
    reached: dict[str, int] = {}

    def listen(node: str, state: NodeState, what: str) -> None:
        step = step_of(state, numbers)
        if what == "task":
            # A handler or a last part belongs to an earlier role: the count does not fall again.
            ahead = step is not None and step.number > reached.get(node, 0)
            doing = f"{step.words}: {state.task}" if step else state.task
            screen.node(node, doing, step.number if step and ahead else 0, len(numbers))
            return
        if step and step.words not in told.setdefault(node, set()):
            told[node].add(step.words)
            reached[node] = max(step.number, reached.get(node, 0))
            screen.say(f"{node}: {step}")
        if what == "changed":
            screen.say(f"{node}:   changed {task_words(state.changes[-1])}")
        elif what == "failed" and state.failure:
            screen.say(f"{node}:   FAILED {state.failure.task}: {state.failure.reason}")

    return listen
