"""`appliance depot`: what the control host holds, and serving it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import DEFAULT_DEPOT, DepotDir, PassphraseFile, screen_of

app = typer.Typer(help="Look at the depot, or serve it to nodes by hand.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_releases(ctx: typer.Context, depot: DepotDir = DEFAULT_DEPOT) -> None:
    """List the releases that were imported.

    Example: appliance depot list --json
    """
    from installer.depot import Depot

    _require(depot)
    releases = Depot(depot).releases()
    screen_of(ctx).result({"depot": str(depot), "releases": releases}, "\n".join(releases) or "the depot is empty")


def _require(depot: Path) -> None:
    """Refuse a place that is not a directory, which is not an empty depot.

    Raises:
        InputError: it is not there, or is a file.
    """
    from engine.errors import InputError

    if not depot.is_dir():
        what = "this is a file, not a depot" if depot.exists() else "there is no such depot"
        raise InputError(what, where=str(depot), remedy="Name it with --depot; `appliance import` makes one.")


@app.command()
def remove(
    ctx: typer.Context,
    release: Annotated[str, typer.Argument(help="NAME-VERSION.", metavar="RELEASE")],
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """Take a release out of the depot. Its contents stay until `gc`; nodes are not touched.

    Example: appliance depot remove ours-1.0.0
    """
    from installer.depot import Depot

    Depot(depot).remove(release)
    screen_of(ctx).result(
        {"removed": release}, f"{release} is no longer in the depot; `appliance depot gc` frees its space"
    )


@app.command()
def gc(
    ctx: typer.Context,
    delete: Annotated[
        str, typer.Option("--delete", metavar="PLAN", help="Delete what that list named, and nothing else.")
    ] = "",
    depot: DepotDir = DEFAULT_DEPOT,
) -> None:
    """List contents that no release needs; delete them in a second step, by the plan that the list printed.

    \b
    Examples:
      appliance depot gc
      appliance depot gc --delete 4f2a9c1e0b7d6a35
    """
    from installer.carry import garbage
    from installer.cli.nextstep import command, given
    from installer.cli.screen import counted, size
    from installer.depot import Depot

    _require(depot)
    found = garbage.delete(Depot(depot), delete) if delete else garbage.find(Depot(depot))
    what = f"{counted(len(found.contents), 'content')} and {counted(len(found.partial), 'unfinished file')}, {size(found.size)}"
    screen_of(ctx).result(
        {
            "plan": found.plan,
            "deleted": bool(delete),
            "contents": list(found.contents),
            "partial": list(found.partial),
            "size": found.size,
        },
        f"Deleted {what}"
        if delete
        else f"{what} could go. To delete exactly these: {command('depot', 'gc', '--delete', found.plan, *given('--depot', depot, DEFAULT_DEPOT))}"
        if found.size or found.contents
        else "Nothing to delete",
    )


@app.command()
def serve(
    ctx: typer.Context,
    address: Annotated[str, typer.Option(help="Address to listen on, as nodes see it.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 7443,
    bundles: Annotated[Path | None, typer.Option(help="Directory of bundles to serve in place of the depot's.")] = None,
    ca: Annotated[Path, typer.Option("--ca", help="Directory of the site's certificate authority.")] = Path(
        "/var/lib/appliance/ca"
    ),
    depot: DepotDir = DEFAULT_DEPOT,
    pid_file: Annotated[Path | None, typer.Option(help="Write the process number there.")] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Serve the depot over mutual TLS until Ctrl-C or SIGTERM. `install` does this by itself while it runs.

    Example: appliance depot serve --address 192.0.2.5
    """
    from engine import durable
    from installer.site import controlpki
    from installer.site.serve import serving
    from installer.trust.secret import passphrase, private_copy

    secret = passphrase(passphrase_file, purpose=f"the site's certificate authority in {ca}")
    with private_copy(secret) as secret_file:
        tls = controlpki.server_tls(ca, secret_file, address)
    if pid_file:
        durable.write(pid_file, f"{os.getpid()}\n")
    lists = depot / "pieces"
    with serving(bundles or depot / "bundles", address, port, tls, lists if lists.is_dir() else None) as url:
        screen_of(ctx).say(f"serving {bundles or depot / 'bundles'} at {url}")
        signal.pause()
