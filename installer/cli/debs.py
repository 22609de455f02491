"""`appliance debs`: the operating-system packages of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.bundle import BundleDir
from installer.cli.options import screen_of

app = typer.Typer(
    help="Check the operating-system packages of a bundle against what their vendors signed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def check(
    ctx: typer.Context,
    bundle: BundleDir,
    keyring: Annotated[
        list[Path] | None,
        typer.Option(
            "--keyring", metavar="FILE", help="Trust this keyring instead of those in the bundle; may be repeated."
        ),
    ] = None,
) -> None:
    """Check every package by the vendor's own signature: keyring, InRelease, Packages index, package.

    Needs no network and no trust in whoever made the bundle when --keyring names a keyring from elsewhere.
    Exit code 3 when a package is not what a vendor signed for.

    \b
    Examples:
      appliance debs check dist/debian13-nvidia-1.0.0
      appliance debs check /media/drive/demo-1.0.0 --keyring /usr/share/keyrings/debian-archive-keyring.gpg
    """
    from dataclasses import asdict

    from engine.errors import InputError
    from installer.cli.tables import Table
    from installer.kinds import debaudit

    for path in keyring or ():
        if not path.is_file():
            raise InputError("there is no such keyring", where=str(path), remedy="Correct --keyring.")
    screen = screen_of(ctx)
    with screen:
        vouched = debaudit.audit(debaudit.files_of(bundle), keyring or ())
    table = Table("source", "signed", "packages", "keys")
    for one in vouched:
        table.add_row(one.source, one.date, str(one.packages), "\n".join(one.signers))
    screen.result({"bundle": str(bundle), "good": True, "sources": [asdict(v) for v in vouched]}, table)
