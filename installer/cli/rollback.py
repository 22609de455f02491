"""`appliance rollback`: back to a release that the nodes keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.options import DEFAULT_SITE_KEYS, PassphraseFile, SiteKeys, screen_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from installer.site.goback import GoneBack


def rollback(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="STATE",
            help="A release that the nodes keep (its newest state), the number of a generation, or previous: the newest state of the release before.",
        ),
    ] = "previous",
    limit: Annotated[str, typer.Option("--limit", help="Only these nodes (an Ansible pattern).")] = "",
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once", help="All nodes together instead of the site's batches: for when nothing serves anyway."
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether every node could go there.")] = False,
    ca: Annotated[Path, typer.Option("--ca", help="Directory of the site's certificate authority.")] = Path(
        "/var/lib/appliance/ca"
    ),
    runs: Annotated[Path, typer.Option("--runs", help="Where the report of every run is kept.")] = Path(
        "/var/lib/appliance/runs"
    ),
    site_keys: SiteKeys = DEFAULT_SITE_KEYS,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Take nodes back to the release before, or to any state that they keep.

    Says first which state each node has and which it goes to; with --check that is all.

    Nothing is copied: a node keeps units, configuration, runtime and models of its last releases. It is drained, its files are switched in
    well under a second, and it counts as back when its models generated a token. Certificates and the memory against old releases
    stay as they are. The report is signed with the site's key.

    \b
    Examples:
      appliance rollback -i inventories/example --check
      appliance rollback -i inventories/example
      appliance rollback -i inventories/example --limit gpu-2 --to demo-1.0.0
    """
    from engine.errors import Exit
    from installer.site import gate
    from installer.site import inventory as inventories
    from installer.site.goback import Site, go_back
    from installer.trust.secret import passphrase, private_copy

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    chosen = gate.limited(site, limit)
    # A check proves and signs nothing, so it needs no key.
    secret = "" if check else passphrase(passphrase_file, purpose=f"the site's certificate authority in {ca}")
    with screen, private_copy(secret) as secret_file:
        made = go_back(Site(site, ca, secret_file, runs, site_keys), chosen, to, screen, check=check, at_once=at_once)
    screen.result(made.data(), _page(made, check))
    if not made.good:
        raise typer.Exit(Exit.NODE)


def _page(made: GoneBack, check: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from installer.cli.tables import Table

    table = Table("node", "release", "switched", "back after", "")
    for name, node in made.nodes.items():
        table.add_row(
            name,
            node.release,
            f"{node.switched_s} s",
            f"{node.seconds} s",
            "" if node.good else f"FAILED {node.failure}",
        )
    # What went is in the table, and was said before.
    lines = (
        [
            Text(f"{n}: runs {a.now}, would go to {a.to}; {a.difference}".removesuffix("; "))
            for n, a in made.aims.items()
        ]
        if check
        else []
    )
    lines += [Text(f"{name} cannot go to {made.to}: {why}") for name, why in made.refused.items()]
    if made.stopped:
        lines.append(Text(made.stopped))
    for proof in made.proof:
        lines.append(
            Text(
                f"{proof.gateway}/{proof.service}: {'answered through mutual TLS' if proof.good else 'DID NOT PROVE ITSELF'} in {proof.seconds} s"
            )
        )
        if proof.remark:
            lines.append(Text(f"{proof.gateway}/{proof.service}: {proof.remark}"))
    if made.refused:
        lines.append(Text("Nothing was changed on any node."))
    elif check:
        lines.append(Text(f"every node can go to {made.to}; nothing was changed"))
    elif made.good:
        lines.append(Text(f"went back in {made.seconds} s"))
    return Group(*([table] if made.nodes else []), *lines)
