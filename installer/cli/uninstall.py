"""`appliance uninstall`: take everything of ours off the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import DEFAULT_EVIDENCE, screen_of


def uninstall(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Leave the verified content: it is what takes longest to bring again.")
    ] = False,
    packages: Annotated[
        bool,
        typer.Option(
            "--packages", help="Remove operating-system packages, too, that came with us and nothing else needs."
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Show what would be removed; change nothing.")] = False,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Only this node; may be given several times.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = Path(
        "/var/lib/appliance/runs"
    ),
    evidence: Annotated[
        Path,
        typer.Option(
            "--evidence",
            help="Where the keys of the nodes' evidence are pinned; those of removed nodes are put away there.",
        ),
    ] = DEFAULT_EVIDENCE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the site's name first.")] = False,
) -> None:
    """Remove services, rules, users and files of ours from nodes; what is the operator's stays.

    Services drain and end first, the firewall goes last. Asks for the site's name (the name of the inventory's directory).
    The control host keeps its depot, authority and records; the pinned key of a node's evidence is put aside, and the node no longer counts as out of
    service. `appliance retire` revokes its certificates. A second uninstall changes nothing.

    \b
    Examples:
      appliance uninstall -i site --check
      appliance uninstall -i site --keep-models
    """
    from datetime import UTC, datetime

    from rich.text import Text

    from engine.errors import Exit, InputError
    from installer.cli.nextstep import command
    from installer.site import egress
    from installer.site import inventory as inventories
    from installer.site.ledger import Ledger
    from installer.site.lock import exclusive
    from installer.site.uninstall import Wish, site_name
    from installer.site.uninstall import uninstall as take_away

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    name = site_name(site)
    if not yes and not check:
        typed = typer.prompt(f"This removes the appliance from the nodes of {name}. Type its name to go on", err=True)
        if typed.strip() != name:
            raise InputError(
                f"{typed!r} is not the site's name; nothing was done", remedy=f"Type {name}, or give --yes."
            )
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with screen, exclusive(runs):
        replies = take_away(site, Wish(check, keep_models, packages, tuple(limit or ())), screen)
        for reply in replies:
            if reply.value is not None and not check and egress.retire(evidence, reply.node, datetime.now(UTC)):
                screen.say(f"{reply.node}: the key of its evidence was put away in {evidence / 'egress'}")
        if not check:  # what serves nothing any more is not missed
            Ledger(runs).bring_back([r.node for r in replies if r.value is not None])
    lines = []
    for reply in replies:
        value = reply.value
        if value is None:
            lines.append(f"{reply.node}: FAILED: {reply.what}. {reply.remedy}")
            if reply.unreachable:
                lines.append(
                    f"  If the machine is gone: `{command('retire', reply.node, '-i', inventory)}`, and take it out of the inventory."
                )
            continue
        word = "would be removed" if check else "removed"
        lines.append(f"{reply.node}: nothing of ours is left" if not value["done"] else f"{reply.node}: {word}")
        lines += [f"  {step}" for step in value["done"]]
        lines += [f"  left: {step}" for step in value["left"]]
    data = [{"node": r.node, "error": r.what, "remedy": r.remedy, **(r.value or {})} for r in replies]
    screen.result({"site": name, "check": check, "nodes": data}, Text("\n".join(lines)))
    if any(r.value is None for r in replies):
        raise typer.Exit(Exit.NODE)
