"""`appliance site`: start the inventory of a site, and check it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.options import DEFAULT_DEPOT, DepotDir, default_keys, screen_of

if TYPE_CHECKING:
    from installer.site.new import Written

app = typer.Typer(help="Start the inventory of a site, and check it.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def new(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Directory to make.")],
    bundle: Annotated[
        Path | None,
        typer.Option("--from", metavar="BUNDLE", help="Bundle directory whose models the site is to serve."),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="NAME=ADDRESS",
            help="A node; may be given several times. The first is the gateway, all serve models.",
        ),
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option(
            "--clients", metavar="NETWORK", help="From where clients may come, with --from; may be given several times."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            help="Pinned root of trust (root.json) for --from; the depot's or the builder's own when left out.",
        ),
    ] = None,
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """Write an inventory: an example to change, or with --from one that fits a bundle.

    With --from the bundle's metadata is verified as `appliance verify` does it, and every file that is read is compared with it
    (`appliance verify` checks all files). The site then serves the bundle's model on CPU or GPU, as the bundle is made for, with limits
    that the model allows. The address of this host is taken from the kernel's routes to the first node.

    \b
    Examples:
      appliance site new ./site
      appliance site new ./site --from /media/drive/demo-1.0.0 --root root.json --node gpu-1=10.0.0.21 --node gpu-2=10.0.0.22
    """
    from engine.errors import InputError
    from installer.site import new as making

    for name, given in (("--root", root), ("--clients", clients)):
        if given and bundle is None:
            raise InputError(
                f"{name} is given without --from", remedy=f"Name the bundle with --from, or leave {name} out."
            )
    making.require_free(directory)
    nodes = making.nodes(node or ())
    serves = making.serving(bundle, _pinned(root, depot)) if bundle is not None else None
    networks = making.client_networks(clients or ())
    written = making.write(directory, nodes, serves, making.control(nodes, making.local_address), networks)
    screen_of(ctx).result(_data(written), _told(written))


def _pinned(root: Path | None, depot: Path) -> bytes:
    """The pinned root of trust: as given, else the depot's, else the builder's own."""
    from installer.cli.checking import read_pinned

    return read_pinned([root] if root else [depot / "root.json", default_keys() / "root.json"])[0]


def _next(written: Written) -> str:
    return f"appliance site check -i {shlex.quote(str(written.directory))}"


def _data(written: Written) -> dict[str, Any]:
    serves = written.serving
    return {
        "inventory": str(written.directory),
        "release": serves.release if serves else None,
        "nodes": [vars(n) for n in written.nodes],
        "control": written.control.address or None,
        "service": {
            "name": serves.service, "model": serves.model.name, "other_models": list(serves.others), "gpu": serves.gpu,
            "runtime": serves.runtime, "runtime_form": serves.form, "max_model_len": serves.max_model_len,
        } if serves else None,
        "unset": [vars(u) for u in written.unset],
        "next": _next(written),
    }  # fmt: skip


def _told(written: Written) -> str:
    serves, lines = written.serving, []
    if serves:
        others = f"; the bundle also has {', '.join(serves.others)}" if serves.others else ""
        lines.append(
            f"Wrote {written.directory} for {serves.release}: serves {serves.model.name} on {'GPU' if serves.gpu else 'CPU'}{others}"
        )
    else:
        lines.append(f"Wrote {written.directory}: change hosts.yml and group_vars/all/site.yml")
    if written.unset and (serves or written.nodes):
        lines.append("These addresses and names are for documentation; write your own:")
        lines += [f"  {u.file}: {u.key}: {u.value}" for u in written.unset]
    return "\n".join([*lines, f"Next: {_next(written)}"])


@app.command()
def check(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
) -> None:
    """Validate an inventory without touching any node.

    Addresses and names of documentation (192.0.2.0/24, example.internal) are warnings, each with file, line and key.

    Example: appliance site check -i ./site
    """
    from installer.cli.tables import Table
    from installer.site.inventory import load

    found = load(inventory)
    table = Table("host", "address", "groups")
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
