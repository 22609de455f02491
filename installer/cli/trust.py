"""`appliance trust`: what a control host believes, and following new roots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import DEFAULT_DEPOT, DepotDir, screen_of

app = typer.Typer(
    help="See what this control host trusts; follow new roots.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def show(ctx: typer.Context, depot: DepotDir = DEFAULT_DEPOT) -> None:
    """Show the root in force, the newest version seen of every bundle, the latest time seen, and every override.

    Example: appliance trust show --json
    """
    from rich.table import Table

    from engine import clock
    from installer.depot import Depot
    from installer.trust.keys import read_root

    memory = Depot(depot).memory()
    root = read_root(memory.newest_root(), str(depot))
    seen = clock.latest(memory.clock_file)
    overrides = memory.overrides.read_text().splitlines() if memory.overrides.exists() else []
    table = Table(
        "bundle",
        "newest version",
        box=None,
        caption=_caption(root.version, f"{root.expires:%Y-%m-%d}", str(seen or "never"), len(overrides)),
    )
    names = memory.names()
    for name in names:
        table.add_row(name, str(memory.version(name)))
    screen_of(ctx).result(
        {
            "root_version": root.version,
            "root_expires": root.expires.isoformat(),
            "latest_time": seen.isoformat() if seen else None,
            "names": {name: memory.version(name) for name in names},
            "overrides": overrides,
        },
        table,
    )


def _caption(version: int, expires: str, seen: str, overrides: int) -> str:
    return f"root version {version}, expires {expires}; latest time seen {seen}; {overrides} overrides on record"


@app.command()
def update(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="What `appliance keys export` wrote.", metavar="DIRECTORY")],
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """Follow new roots that came without a bundle: keys were rotated or revoked.

    Each root must be signed by the threshold of the one before it. What a revoked key signed is refused from now on,
    also on nodes, once they ask the depot the next time; renewed metadata of the bundles should come along.

    Example: appliance trust update /media/drive/trust-update
    """
    from engine.errors import InputError
    from engine.tree import open_beneath, walk
    from engine.trust import CONFIG
    from installer.depot import Depot

    if not (directory / "metadata").is_dir():
        raise InputError("not a trust update", where=str(directory), remedy="Name what `appliance keys export` wrote.")
    chain = {}
    for entry in walk(directory / "metadata"):
        number, _, rest = entry.path.partition(".")
        if entry.kind == "file" and rest == "root.json" and number.isdigit() and len(number) < 7:
            with open_beneath(directory / "metadata", entry.path) as file:
                chain[int(number)] = file.read(CONFIG.root_max_length)
    store = Depot(depot)
    before = max(store.memory().roots())
    version = store.learn(chain)
    screen_of(ctx).result(
        {"version": version, "before": before, "changed": version != before},
        f"Root version {version} is in force"
        if version != before
        else f"Root version {version} was in force already; nothing changed",
    )
