"""`appliance preflight`: whether nodes are fit for a release."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.nextstep import Word, command, given
from installer.cli.options import DEFAULT_DEPOT, DepotDir, Root, screen_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from engine.preflight.expectation import Finding
    from installer.depot import Depot
    from installer.site.needs import Release
    from installer.site.preflight import NodeReport


ONE_GPU = re.compile(r"GPU ([0-9]+) \([^)]*\): (.+)", re.DOTALL)


def preflight(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle directory; the depot's release when left out.", metavar="BUNDLE")
    ] = None,
    depot: DepotDir = DEFAULT_DEPOT,
    root: Root = None,
    release: Annotated[str, typer.Option("--release", help="Release of the depot to judge by, NAME-VERSION.")] = "",
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Only this node; may be given several times.")
    ] = None,
    outside: Annotated[
        list[str] | None,
        typer.Option(
            "--outside",
            metavar="ADDRESS:PORT",
            help="What must not be reachable, instead of three root name servers; may be given several times.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show what is good, too.")] = False,
) -> None:
    """Look whether the nodes of an inventory are fit for a release; change nothing.

    Every node is asked at once over SSH, by a program that its own Python reads from the connection: nothing is installed
    or left there. Each finding is pass, warn or fail, with the reason and the remedy (docs/preflight.md lists them all).
    Without a bundle and with an empty depot only the site's own needs are judged.

    Exit codes of this command: 0 every node is ready (warnings allowed), 1 something can be fixed, 2 a node is not supported.

    \b
    Examples:
      appliance preflight -i site --root root.json /media/drive/demo-1.0.0
      appliance preflight -i site --limit gpu-1 --all
    """
    from installer.depot import Depot
    from installer.site import inventory as inventories
    from installer.site import needs
    from installer.site.preflight import preflight as run
    from installer.site.preflight import verdict_of
    from installer.site.serve import other_server

    screen = screen_of(ctx)
    targets = needs.outside_of(outside or [])
    site = inventories.load(inventory)
    other_server(screen.say)
    wanted = _release(Depot(depot), bundle, root, release)
    with screen:
        reports = run(site, wanted, screen, outside=targets, limit=limit or ())
    code = verdict_of(reports)
    from installer.site.preflight import WORDS

    data = {"release": wanted.name, "verdict": WORDS[code], "nodes": [r.data() for r in reports]}
    screen.result(data, _page(reports, wanted.name, every))
    if code:
        raise typer.Exit(code)
    if wanted.name:  # without a release it was the site alone that was judged
        words = (
            "-i",
            inventory,
            *given("--depot", depot, DEFAULT_DEPOT),
            *given("--root", root),
            *given("--release", release),
        )
        screen.next(*_following((*words, *((bundle,) if bundle else ()))))


def _following(words: tuple[Word, ...]) -> list[str]:
    """What comes after nodes that are fit. ``words`` name the site and the release."""
    return [
        f"{command('plan', *words)} to review the change under a digest",
        f"{command('install', *words, '--check')} to see what would change",
    ]


def _release(depot: Depot, bundle: Path | None, root: Path | None, release: str) -> Release:
    """What to judge by. The metadata is verified as always; nothing is remembered of it."""
    from engine.errors import InputError
    from installer.evidence import contents
    from installer.site import needs

    if bundle is not None and release:
        raise InputError("both a bundle and --release are given", remedy="Give one of them.")
    if bundle is None:
        names = depot.releases()
        if not names and not release:
            return needs.Release(None, None)
        if not release and len(names) > 1:
            raise InputError(
                f"the depot has {len(names)} releases",
                where=str(depot.root),
                remedy=f"Give --release: {', '.join(names)}.",
            )
        return needs.release(contents.read(depot.view(release or names[0]), depot.pinned_root.read_bytes()))
    return needs.release(contents.read(bundle, depot.pin(root)))


def alike(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for several GPUs of which the same is said; the order of the first ones stays."""
    found: dict[tuple[str, ...], tuple[Finding, list[str]]] = {}
    for number, finding in enumerate(findings):
        said = ONE_GPU.fullmatch(finding.what)
        key = (finding.check, finding.severity, finding.remedy, said[2]) if said else (str(number),)
        found.setdefault(key, (finding, []))[1].append(said[1] if said else "")
    return [
        replace(one, what=f"GPUs {', '.join(numbers)}: {key[-1]}") if len(numbers) > 1 else one
        for key, (one, numbers) in found.items()
    ]


def _page(reports: tuple[NodeReport, ...], release: str, every: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from installer.cli.tables import Table

    table = Table("node", "check", "", "what", "remedy")
    for number, report in enumerate(reports):
        if number:
            table.add_row()
        shown = [f for f in report.findings if every or f.severity != "pass" or f.reboot]
        for finding in alike(shown):
            said = "reboot" if finding.reboot else finding.severity
            table.add_row(report.node, finding.check, said, finding.what, finding.remedy)
        fine = len(report.findings) - len(shown)
        if fine:
            table.add_row(report.node, "", "pass", f"{fine} checks", "")
    counts = ", ".join(f"{r.node} {r.words}" for r in reports)
    against = f"{release}: " if release else "no release given, so only the site's needs were judged: "
    return Group(table, Text(f"\n{against}{counts}"))
