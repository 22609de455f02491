"""`appliance status`: how the site is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.options import DEFAULT_DEPOT, DEFAULT_SITE_KEYS, DepotDir, SiteKeys, screen_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from engine.preflight.expectation import Finding
    from installer.site.status import NodeStatus, Status


def status(
    ctx: typer.Context,
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no node; what this host knows by itself.")] = False,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Only this node; may be given several times.")
    ] = None,
    depot: DepotDir = DEFAULT_DEPOT,
    ca: Annotated[Path, typer.Option("--ca", help="Directory of the certificate authority.")] = Path(
        "/var/lib/appliance/ca"
    ),
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = Path(
        "/var/lib/appliance/runs"
    ),
    site_keys: SiteKeys = DEFAULT_SITE_KEYS,
) -> None:
    """Look how the nodes of an inventory are: services, certificates, firewall, disks, proof. Changes nothing.

    Every node is asked at once over SSH; each service gives one token. Without an inventory, or with --offline, this host's own
    records are shown.

    Exit codes of this command: 0 all is well (warnings allowed), 5 something is wrong or a node cannot be asked.

    \b
    Examples:
      appliance status -i site
      appliance status --offline --json
    """
    from engine.errors import Exit
    from installer.site import records

    screen = screen_of(ctx)
    if offline or inventory is None:
        known = records.control(depot, ca, runs)
        screen.result({"control": known}, "\n".join(records.lines(known)))
        if any(severity == "fail" for severity, _, _ in records.findings(known)):
            raise typer.Exit(Exit.NODE)
        return

    from dataclasses import asdict

    import installer
    from installer.site.inventory import load
    from installer.site.status import Places
    from installer.site.status import status as look

    with screen:
        seen = look(load(inventory), Places(depot, ca, runs, site_keys), limit=tuple(limit or ()))
    data = {
        "good": seen.good, "nodes": [n.data() for n in seen.nodes],
        "control": {**seen.control, "installer": installer.__version__, "proof": seen.proof, "findings": [asdict(f) for f in seen.findings]},
    }  # fmt: skip
    screen.result(data, _page(seen))
    if not seen.good:
        raise typer.Exit(Exit.NODE)


def _page(seen: Status) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from installer.cli.tables import Table
    from installer.site import records
    from installer.site.placed import line

    table = Table("node", "", "release", "engine", "services", "token", "days left", "refused", "last rules", "free")
    for node in seen.nodes:
        table.add_row(node.node, "ok" if node.good else "WRONG", *_cells(node))
    wrong = [
        Text(f"{node.node}: {f.severity.upper()}: {_whose(f)}{f.what}. {f.remedy}")
        for node in seen.nodes
        for f in node.findings
        if f.severity != "pass"
    ]
    known = dict(seen.control)
    told = [line for line in records.lines(known) if "FAIL:" not in line and "WARN:" not in line]
    wrong += [Text(f"control: {f.severity.upper()}: {f.what}. {f.remedy}") for f in seen.findings]
    told += [
        f"{node.node}  {s['service']} compiles nothing: the node has no compiler"
        for node in seen.nodes
        for s in (node.facts or {}).get("services") or []
        if not s["compiles"]
    ]
    told += [f"{node.node}  {line(p)}" for node in seen.nodes for p in (node.facts or {}).get("placement") or []]
    return Group(table, Text("\n" + "\n".join([*told, f"control  newest report: {seen.proof}"])), *wrong)


def _whose(finding: Finding) -> str:
    """What people call the part that a unit belongs to, before a finding about it; empty for any other."""
    from installer.site import owned, steps

    if finding.check != "units":
        return ""
    words = steps.words_of_unit(finding.what.partition(" ")[0], owned.declarations())
    return f"{words}: " if words else ""


def _cells(node: NodeStatus) -> tuple[str, ...]:
    from datetime import UTC, datetime

    from engine.chat import COMPLETIONS
    from installer.cli.screen import size

    facts = node.facts
    if facts is None:
        return ("", "", "", "", "", "", "", "")
    release = facts["release"] or {}
    units = [u for u in facts["units"] or [] if u["name"].endswith(".service") and u["active"] == "active"]
    since = max((u["since"] for u in units), default=0)
    when = f" since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M}" if since else ""
    tokens = ", ".join(
        "none" if t["error"] else f"{t['seconds']:.2f} s{' (no chat)' if t.get('endpoint') == COMPLETIONS else ''}"
        for t in facts["tokens"] or []
    )
    days = " ".join(f"{name.partition('.')[0]} {left}" for name, left in node.days.items())
    wall = facts["firewall"] or {"refused": {}, "last": {}}
    disks = ", ".join(f"{d['path']} {size(d['free'])}" for d in facts["disks"] or [])
    generation = f" ({release['generation']})" if release.get("generation") else ""
    return (
        f"{release.get('current', '')}{generation}",
        str(release.get("engine", "")),
        f"{len(units)} active{when}",
        tokens or "-",
        days,
        str(sum(wall["refused"].values())),
        f"{wall['last'].get('outcome', '')} {wall['last'].get('noted_at', '')[:16]}".strip() or "-",
        disks,
    )
