"""Commands about evidence that nodes collect: evidence egress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import DEFAULT_EVIDENCE, screen_of

app = typer.Typer(
    no_args_is_help=True, help="Fetch and check what nodes write down about themselves.", rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Fetch and check what nodes write down about themselves."""


@app.command("egress")
def egress(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    directory: Annotated[
        Path, typer.Option("--evidence", help="Where the install pinned the nodes' keys.", metavar="DIRECTORY")
    ] = DEFAULT_EVIDENCE,
    late_after: Annotated[
        int,
        typer.Option(
            "--late-after",
            min=1,
            max=525_600,
            help="Minutes after which the newest record is too old.",
            metavar="MINUTES",
        ),
    ] = 15,
    whole: Annotated[
        bool, typer.Option("--whole", help="Check all that the nodes have, also what was checked before.")
    ] = False,
) -> None:
    """Fetch every node's signed evidence that nothing gets out, and check it.

    Every change of a record is located, and so is evidence that lacks what was seen here before. The last proof must be recent
    and good.

    Example: appliance evidence egress -i inventories/example
    """
    from dataclasses import asdict
    from datetime import timedelta

    from engine.errors import Exit
    from installer.site import egress as evidence
    from installer.site import inventory as inventories

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    hosts = [h for h in site.hosts if h.groups != ("control",)]
    with screen:
        found = evidence.collect(site, directory, hosts, late_after=timedelta(minutes=late_after), whole=whole)
    good = all(e.good for e in found)
    lines = []
    for one in found:
        word = "shut" if one.good else "not proved shut"
        lines.append(
            f"{one.node}: {word}; {one.proofs} proofs ({one.bad_proofs} failed) in {one.records} records, last {one.last_time or 'never'}"
        )
        lines += [f"  {text}" for text in (*one.problems, *one.last_faults, *one.notes)]
    screen.result({"good": good, "nodes": [{**asdict(e), "good": e.good} for e in found]}, "\n".join(lines))
    if any(e.problems for e in found):
        raise typer.Exit(Exit.UNTRUSTED)
    if not good:
        raise typer.Exit(Exit.NODE)
