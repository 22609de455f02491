"""`appliance retire`: a machine is gone, or another one takes its name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.nextstep import command, given
from installer.cli.options import DEFAULT_CA, DEFAULT_EVIDENCE, DEFAULT_RUNS, PassphraseFile, screen_of


def retire(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Name of the node in the inventory, or the one it had there.")],
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    check: Annotated[bool, typer.Option("--check", help="Say what is on record; change nothing.")] = False,
    ca: Annotated[Path, typer.Option("--ca", help="Directory of the site's certificate authority.")] = DEFAULT_CA,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = DEFAULT_RUNS,
    evidence: Annotated[
        Path, typer.Option("--evidence", help="Where the keys of the nodes' evidence are pinned.")
    ] = DEFAULT_EVIDENCE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for the node's name first.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let go of a machine that died or is replaced: revoke its certificates and put its keys on this host aside.

    Asks no node, so a machine that cannot be reached is retired, too. Revoked are all certificates of the node; the next install carries
    the list to the others. Put aside, as FILE.until-TIME, are the pinned key of its evidence, the key of its sealed journal and the
    recovery key of its model store. It no longer counts as out of service. A machine that takes the name afterwards is new: its key is
    pinned by the next install. Asks for the node's name first.

    \b
    Examples:
      appliance retire gpu-2 -i site --check
      appliance retire gpu-2 -i site
    """
    from engine.errors import InputError
    from installer.pki import utc_now
    from installer.site import inventory as inventories
    from installer.site import retire as records
    from installer.site.lock import exclusive
    from installer.trust.secret import passphrase

    screen = screen_of(ctx)
    site = inventories.load(inventory)
    places = records.places(site, ca, runs, evidence)
    found = records.known(places, site, node)
    if found and not yes and not check:
        typed = typer.prompt(
            f"This revokes {len(found.certificates)} certificates of {node} for good. Type its name to go on", err=True
        )
        if typed.strip() != node:
            raise InputError(f"{typed!r} is not {node}; nothing was done", remedy=f"Type {node}, or give --yes.")
    files = found.files
    if found and not check:
        secret = (
            passphrase(passphrase_file, purpose=f"the site's certificate authority in {ca}")
            if found.certificates
            else ""
        )
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        with screen, exclusive(runs):
            files = records.retire(places, found, secret, utc_now())
    would = "would be " if check else ""
    lines = [f"certificate {c.serial}: {would}revoked" for c in found.certificates]
    lines += [f"{path}: would be put aside" for path in files] if check else [f"put aside: {path}" for path in files]
    lines += (
        [f"{node} {'would no longer count' if check else 'no longer counts'} as out of service"] if found.out else []
    )
    screen.result(
        {
            "node": node, "check": check, "revoked": [c.serial for c in found.certificates], "put_away": [str(p) for p in files],
            "out_of_service": found.out, "in_inventory": node in [h.name for h in site.nodes],
        },
        "\n".join(lines) or f"nothing is on record of {node}",
    )  # fmt: skip
    if found and not check:
        known = (*given("--ca", ca, DEFAULT_CA), *given("--runs", runs, DEFAULT_RUNS))
        screen.next(
            f"{command('install', '-i', inventory, *known, '--release', 'RELEASE')} to carry the revocation to every node"
        )
