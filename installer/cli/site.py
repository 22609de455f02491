"""`appliance site`: start the inventory of a site, and check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import screen_of

app = typer.Typer(help="Start the inventory of a site, and check it.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def new(ctx: typer.Context, directory: Annotated[Path, typer.Argument(help="Directory to make.")]) -> None:
    """Write an example inventory to change.

    Example: appliance site new ./site
    """
    from engine import durable
    from engine.errors import InputError
    from installer import product

    if directory.exists() or directory.is_symlink():
        raise InputError(
            "there is something already", where=str(directory), remedy="Name a directory that does not exist."
        )
    durable.copy_tree(product.data("inventories") / "example", directory)
    screen_of(ctx).result(
        {"inventory": str(directory)}, f"Wrote {directory}: change hosts.yml and group_vars/all/site.yml"
    )


@app.command()
def check(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
) -> None:
    """Validate an inventory without touching any node.

    Addresses and names of documentation (192.0.2.0/24, example.internal) are warnings, each with file, line and key.

    Example: appliance site check -i ./site
    """
    from rich.table import Table

    from installer.site.inventory import load

    found = load(inventory)
    table = Table("host", "address", "groups", box=None)
    for host in found.hosts:
        table.add_row(host.name, host.address, ", ".join(host.groups))
    screen = screen_of(ctx)
    data = {
        "hosts": [vars(h) for h in found.hosts],
        "site": found.shown(),
        "warnings": [vars(w) for w in found.leftovers],
    }
    screen.result(data, table)
    for warning in found.leftovers:
        screen.say(f"warning: {warning.where}: {warning.key}: {warning.what}. {warning.remedy}")
