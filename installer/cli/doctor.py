"""`appliance doctor`: a support bundle without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import DEFAULT_DEPOT, DEFAULT_SITE_KEYS, DepotDir, SiteKeys, screen_of


def doctor(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, NAME.tar.gz.")],
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
    """Collect what helps to find a fault, from every node and this host, with secrets removed, into one file.

    CONTENTS.json lists every entry with its SHA-256, REMOVED.json says what was taken out of which. Read it before you send it: it still
    names hosts, addresses and models. No prompt and no answer is collected.

    Exit codes of this command: 0 collected, 5 a node could not be asked; what the others said is in the file.

    Example: appliance doctor -i site --out fault.tar.gz
    """
    from engine.errors import Exit
    from installer.cli.screen import size
    from installer.cli.tables import Table
    from installer.site.doctor import doctor as collect
    from installer.site.inventory import load
    from installer.site.status import Places

    screen = screen_of(ctx)
    with screen:
        done = collect(load(inventory), Places(depot, ca, runs, site_keys), out, screen, limit=tuple(limit or ()))
    removed = sum(n for kinds in done.removed.values() for n in kinds.values())
    table = Table(
        "entry", "size", "removed",
        caption=f"{done.out}: {size(done.size)}, {len(done.contents)} entries, {removed} secrets removed",
    )  # fmt: skip
    for entry in done.contents:
        taken = ", ".join(f"{n} {kind}" for kind, n in done.removed.get(entry["path"], {}).items())
        table.add_row(entry["path"], size(entry["size"]), taken)
    failures = [{"node": r.node, "what": r.what, "remedy": r.remedy} for r in done.failures]
    for failure in failures:
        screen.say(f"{failure['node']}: {failure['what']}. {failure['remedy']}")
    data = {
        "out": str(done.out),
        "size": done.size,
        "contents": done.contents,
        "removed": done.removed,
        "failures": failures,
    }
    screen.result(data, table)
    if failures:
        raise typer.Exit(Exit.NODE)
