"""`appliance certs`: the site's certificate authority."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import PassphraseFile, screen_of

app = typer.Typer(help="The site's offline certificate authority.", no_args_is_help=True, rich_markup_mode=None)
CaDir = Annotated[Path, typer.Option("--dir", "--ca", help="Directory of the certificate authority.")]
DEFAULT = Path("/var/lib/appliance/ca")


@app.command()
def init(
    ctx: typer.Context,
    directory: CaDir = DEFAULT,
    name: Annotated[str, typer.Option(help="Common name of the authority.")] = "appliance site CA",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the authority. `appliance install` does this by itself on the first install.

    Example: appliance certs init --dir /var/lib/appliance/ca
    """
    from installer.pki import Authority, utc_now
    from installer.trust.secret import passphrase

    authority = Authority(directory)
    authority.create(
        name, passphrase(passphrase_file, purpose="the certificate authority", confirm=True), now=utc_now()
    )
    screen_of(ctx).result({"certificate": str(authority.certificate_path)}, f"Made {authority.certificate_path}")


@app.command()
def client(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the client; it appears in the gateway's log.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for NAME.crt, NAME.key and ca.crt.")],
    directory: CaDir = DEFAULT,
    days: Annotated[int, typer.Option(help="Days until the certificate expires.", min=1, max=825)] = 90,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Issue a certificate for a client of the gateway.

    Example: appliance certs client team-a --out ./team-a
    """
    from engine import durable
    from engine.errors import InputError
    from engine.rules.names import COMMON_NAME
    from installer.pki import Authority, utc_now
    from installer.pki.authority import OWN_CLIENT
    from installer.trust.secret import passphrase

    if name == OWN_CLIENT:
        raise InputError(
            f"{name} is the name of the client that installs make for themselves", remedy="Use another name."
        )
    if not COMMON_NAME.fullmatch(name):  # before anything of that name is looked for on disk
        raise InputError(
            f"{name!r} is no name for a client", remedy="Use up to 63 letters, digits, dots, dashes, underscores."
        )
    if (out / f"{name}.key").exists():
        raise InputError(
            "there is a key of that name already",
            where=str(out / f"{name}.key"),
            remedy="Use another directory; keys are never overwritten.",
        )
    authority = Authority(directory)
    secret = passphrase(passphrase_file, purpose=f"the certificate authority in {directory}")
    found = out.exists()
    durable.require_writable(out)  # a certificate on record whose key could not be written would be of no use
    try:
        key, certificate = authority.issue(
            kind="client", name=name, names=[], passphrase=secret, days=days, now=utc_now()
        )
    except BaseException:
        if not found:
            with suppress(OSError):  # another command may have written there meanwhile
                out.rmdir()
        raise
    durable.write(out / f"{name}.key", key, mode=0o600)
    durable.write(out / f"{name}.crt", certificate)
    durable.write(out / "ca.crt", authority.certificate_path.read_bytes())
    screen = screen_of(ctx)
    screen.result(
        {
            "certificate": str(out / f"{name}.crt"),
            "key": str(out / f"{name}.key"),
            "ca": str(out / "ca.crt"),
            "days": days,
        },
        f"Issued {out / name}.crt for {days} days; hand it over with {name}.key and ca.crt",
    )
    files = ["--cacert", out / "ca.crt", "--cert", out / f"{name}.crt", "--key", out / f"{name}.key"]
    screen.next(f"on the client: {shlex.join(['curl', *map(str, files), 'https://GATEWAY:PORT/v1/models'])}")


@app.command("list")
def list_issued(
    ctx: typer.Context,
    directory: CaDir = DEFAULT,
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Also what installs issued to themselves for one run.")
    ] = False,
) -> None:
    """List what was issued, with the days left; the authority itself comes first.

    Every install issues a certificate for the depot that it serves and one for the client that proves the services. Both are of no use
    after it and left out; --json has them all, marked with `one_run`.

    \b
    Examples:
      appliance certs list
      appliance certs list --all
      appliance certs list --json
    """
    from installer.cli.tables import Table
    from installer.pki import Authority, utc_now

    now = utc_now()
    authority = Authority(directory)
    entries = [authority.itself(), *authority.register()]
    shown = [e for e in entries if every or not e.one_run]
    left_out = len(entries) - len(shown)
    told = f"{left_out} {'certificate' if left_out == 1 else 'certificates'} of single runs left out; --all shows them"
    table = Table("kind", "name", "days left", "serial", "revoked", caption=told if left_out else "")
    for entry in shown:
        table.add_row(entry.kind, entry.name, str(entry.days_left(now)), entry.serial, entry.revoked[:10])
    screen_of(ctx).result([{**vars(e), "days_left": e.days_left(now), "one_run": e.one_run} for e in entries], table)


@app.command()
def revoke(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(help="Serial, or name to revoke everything issued to it.")],
    directory: CaDir = DEFAULT,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Revoke certificates. The next install carries the list to every node.

    Example: appliance certs revoke team-a
    """
    from installer.pki import Authority, utc_now
    from installer.trust.secret import passphrase

    secret = passphrase(passphrase_file, purpose=f"the certificate authority in {directory}")
    hit = Authority(directory).revoke(which, passphrase=secret, now=utc_now())
    done = f"Revoked {len(hit)}: {', '.join(e.serial for e in hit)}" if hit else "It was revoked before"
    screen_of(ctx).result([vars(e) for e in hit], f"{done}. Run `appliance install` to carry the list to every node.")


@app.command()
def rotate(
    ctx: typer.Context,
    inventory: Annotated[Path, typer.Option("--inventory", "-i", help="Inventory of the site, a directory.")],
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Only this node; may be given several times.")
    ] = None,
    authority: Annotated[
        bool, typer.Option("--ca", help="Replace the authority itself, step by step; run it again after each step.")
    ] = False,
    drop_old: Annotated[
        bool,
        typer.Option("--drop-old", help="With --ca, at the end: trust the old authority no more and destroy its key."),
    ] = False,
    revoke_old: Annotated[
        bool, typer.Option("--revoke-old", help="Revoke the certificates that nodes had before.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Say what would be done; change nothing.")] = False,
    directory: Annotated[Path, typer.Option("--dir", help="Directory of the certificate authority.")] = DEFAULT,
    runs: Annotated[Path, typer.Option("--runs", help="Where the records of runs are.")] = Path(
        "/var/lib/appliance/runs"
    ),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Give nodes new keys and certificates while they serve; with --ca, a new authority to all.

    Keys are made on the nodes. Streams go on; a connection that is kept open is closed after its request, so clients must be ready
    to connect again, as HTTP clients are. A killed run is continued by the next.

    \b
    Examples:
      appliance certs rotate -i site
      appliance certs rotate -i site --ca
    """
    from dataclasses import asdict

    from engine.errors import InputError
    from installer.pki import utc_now
    from installer.pki.succession import Succession
    from installer.site import inventory as inventories
    from installer.site.lock import exclusive
    from installer.site.rotate import Rotation, names_of
    from installer.trust.secret import passphrase

    if drop_old and not authority:
        raise InputError("--drop-old is given without --ca", remedy="Give both, or neither.")
    if authority and (node or revoke_old):
        raise InputError("an authority is replaced on all nodes", remedy="Leave out --node and --revoke-old.")
    screen = screen_of(ctx)
    site = inventories.load(inventory)
    names = names_of(site, inventories.variables(inventory))
    secret = "" if check else passphrase(passphrase_file, purpose=f"the certificate authority in {directory}")
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with screen, exclusive(runs):
        rotation = Rotation(site, names, Succession(directory), secret, screen, clock=utc_now, check=check)
        done = (
            rotation.authority(drop_old=drop_old) if authority else rotation.leaves(node or (), revoke_old=revoke_old)
        )
    lines = [*done.did, *(f"waiting for client {name}" for name in done.waiting)]
    if check and not authority:
        lines += [
            f"{name}: would get a new certificate ({about['days_left']} days are left)"
            for name, about in done.nodes.items()
        ]
    screen.result(asdict(done), "\n".join([*lines, *([done.next] if done.next else [])]))
