"""`appliance generations`: the states that nodes keep to go back to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.options import DEFAULT_RUNS, screen_of

if TYPE_CHECKING:
    from installer.site.errand import Reply

app = typer.Typer(help="States that nodes keep to go back to.", no_args_is_help=True, rich_markup_mode=None)
InventoryDir = Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")]
Limit = Annotated[list[str] | None, typer.Option("--limit", help="Only this node; may be given several times.")]


@app.callback()
def _group() -> None:
    """States that nodes keep to go back to."""


@app.command("list")
def list_states(ctx: typer.Context, inventory: InventoryDir, limit: Limit = None) -> None:
    """List the states that nodes keep: what `appliance rollback --to` takes.

    Example: appliance generations list -i site
    """
    from rich.console import Group
    from rich.text import Text

    from engine.errors import Exit
    from engine.report import printable
    from installer.cli.tables import Table
    from installer.site import generations
    from installer.site import inventory as inventories

    screen = screen_of(ctx)
    with screen:
        replies = generations.kept(inventories.load(inventory), tuple(limit or ()))
    table = Table("node", "generation", "release", "kept", "files that differ", "")
    for reply in replies:
        states = _states(reply)
        for state in states:
            runs = "runs" if state.get("number") == (reply.value or {}).get("current") else ""
            made, differs = str(state.get("made", ""))[:16].replace("T", " "), len(state.get("differs") or ())
            table.add_row(reply.node, str(state.get("number")), str(state.get("release")), made, str(differs), runs)
        if not states:
            table.add_row(reply.node, "", "FAILED" if reply.value is None else "keeps none")
    lines = [Text(printable(f"{r.node}: FAILED: {_why(r)}")) for r in replies if r.value is None]
    screen.result({"nodes": [_data(r) for r in replies]}, Group(table, *lines))
    if any(r.value is None for r in replies):
        raise typer.Exit(Exit.NODE)


@app.command()
def prune(
    ctx: typer.Context,
    inventory: InventoryDir,
    keep: Annotated[
        int,
        typer.Option(
            "--keep", min=1, max=100, help="How many states each node keeps, the one that it runs among them."
        ),
    ] = 1,
    check: Annotated[bool, typer.Option("--check", help="Show what would go; change nothing.")] = False,
    limit: Limit = None,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = DEFAULT_RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the site's name first.")] = False,
) -> None:
    """Give the disks of nodes back what only older states need: runtimes, models and other content of their releases.

    With --keep 1 there is no rollback until the next change; an upgrade that fails still goes back by itself, for it goes to the state
    that ran. Installs keep as many states as the site says (keep_generations) and remove the others by themselves. Asks for the site's
    name (the name of the inventory's directory). Not while an install is paused: what nodes fetched for it would be fetched again.

    \b
    Examples:
      appliance generations prune -i site --check
      appliance generations prune -i site --keep 1
    """
    from contextlib import nullcontext

    from rich.text import Text

    from engine.errors import Exit, InputError
    from installer.site import generations
    from installer.site import inventory as inventories
    from installer.site.lock import exclusive
    from installer.site.uninstall import site_name

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    name = site_name(site)
    if not yes and not check:
        typed = typer.prompt(
            f"The nodes of {name} can go back to no state that this removes. Type its name to go on", err=True
        )
        if typed.strip() != name:
            raise InputError(
                f"{typed!r} is not the site's name; nothing was done", remedy=f"Type {name}, or give --yes."
            )
    if not check:
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with screen, nullcontext() if check else exclusive(runs):
        replies = generations.prune(site, keep, tuple(limit or ()), check=check)
    lines = [line for reply in replies for line in _told(reply, check)]
    screen.result(
        {"site": name, "keep": keep, "check": check, "nodes": [_data(r) for r in replies]}, Text("\n".join(lines))
    )
    if any(r.value is None for r in replies):
        raise typer.Exit(Exit.NODE)


def _told(reply: Reply, check: bool) -> list[str]:
    """What a node did, or would do."""
    from engine.report import printable
    from installer.cli.screen import size

    value = reply.value
    if value is None:
        return [f"{reply.node}: FAILED: {_why(reply)}"]
    if not value.get("generations") and not value.get("removed"):
        return [f"{reply.node}: nothing to remove"]
    kept = ", ".join(f"{_of(s, 'number')} ({_of(s, 'release')})" for s in value.get("kept") or ()) or "none"
    gone = ", ".join(map(str, value.get("generations") or ())) or "none"
    freed = int(value.get("freed_bytes") or 0)
    lines = [
        f"{reply.node}: {'would remove' if check else 'removed'} generations {gone}: {size(freed)} {'would be' if check else 'are'} free again",
        *(f"  {place}" for place in value.get("removed") or ()),
        f"  {'would keep' if check else 'keeps'} {kept}",
    ]
    return [printable(line) for line in lines]


def _states(reply: Reply) -> list[Mapping[str, Any]]:
    found = (reply.value or {}).get("generations")
    return [s for s in found if isinstance(s, dict)] if isinstance(found, list) else []


def _of(state: Any, key: str) -> str:
    return str(state.get(key, "")) if isinstance(state, dict) else ""


def _why(reply: Reply) -> str:
    return f"{reply.what}. {reply.remedy}".removesuffix(". ")


def _data(reply: Reply) -> dict[str, Any]:
    return {"node": reply.node, "error": reply.what, "remedy": reply.remedy, **(reply.value or {})}
