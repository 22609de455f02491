"""`appliance lab`: throw-away nodes on this host."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import InputError
from installer.cli.options import screen_of

if TYPE_CHECKING:
    from installer.lab.lab import Lab

app = typer.Typer(
    help="Boot throw-away nodes (systemd-nspawn) that reach this host only.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Release(StrEnum):
    """Debian releases a node can run."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"


class System(StrEnum):
    """Operating systems as definitions name them."""

    DEBIAN_12 = "debian-12"
    DEBIAN_13 = "debian-13"
    UBUNTU_22_04 = "ubuntu-22.04"
    UBUNTU_24_04 = "ubuntu-24.04"


def _document(lab: Lab) -> dict[str, Any]:
    from dataclasses import asdict

    document = asdict(lab) | {"key": str(lab.key), "known_hosts": str(lab.known_hosts)}
    if not document.pop("host_address6"):  # a lab without IPv6 says nothing of it
        return document | {"nodes": [{"name": n.name, "address": n.address} for n in lab.nodes]}
    return document | {"host_address6": lab.host_address6}


@app.command()
def up(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the lab; its nodes are NAME-1, NAME-2, …")],
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes.")] = 1,
    bind_ro: Annotated[
        list[str] | None, typer.Option("--bind-ro", metavar="SRC:DST", help="Show a path of this host in every node.")
    ] = None,
    release: Annotated[
        Release | None,
        typer.Option(help="Debian release of the nodes, by its code name; bookworm unless --os says else."),
    ] = None,
    system: Annotated[
        System | None, typer.Option("--os", help="Operating system of the nodes, as a definition's target.os.")
    ] = None,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="Give nodes an IPv6 address beside the other.")] = False,
) -> None:
    """Boot a lab; it stays until it is taken down.

    The first lab of a release makes the root file system all nodes of that release share.

    \b
    Examples:
      appliance lab up try --nodes 2 --bind-ro /srv/bundles:/bundles
      appliance lab up try --os debian-13
    """
    from installer.lab.lab import up as make
    from installer.lab.plan import release_of

    if release and system:
        raise InputError("--release and --os say the same", remedy="Give one of them.")
    code_name = release_of(system.value) if system else (release or Release.BOOKWORM).value

    screen = screen_of(ctx)
    with screen:
        lab = make(name, nodes=nodes, bind_ro=bind_ro or (), release=code_name, ipv6=ipv6, report=screen)
    lines = [f"{n.name}  {n.address}" for n in lab.nodes]
    screen.result(_document(lab), "\n".join([*lines, f"Log in: appliance lab exec {lab.nodes[0].name} -- bash -l"]))


@app.command()
def down(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of the lab.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Take all labs down.")] = False,
) -> None:
    """Take a lab down, also one that was left half made.

    Example: appliance lab down try
    """
    from installer.lab import state
    from installer.lab.lab import down as take_down

    if (name is None) != every:
        raise InputError("say which lab to take down", remedy="Give a name, or --all.")
    screen = screen_of(ctx)
    gone = [n for n in ([name] if name else state.known()) if take_down(n, report=screen)]
    screen.result({"down": gone}, None if gone else "There was no such lab." if name else "There was no lab.")


@app.command("list")
def list_labs(ctx: typer.Context) -> None:
    """Show the labs of this host.

    Example: appliance lab list --json
    """
    from installer.cli.tables import Table
    from installer.lab.lab import labs

    table = Table("node", "address", "state of its lab")
    found = labs()
    for lab, is_up in found:
        for node in lab.nodes:
            table.add_row(node.name, node.address, "up" if is_up else "broken")
    screen_of(ctx).result({"labs": [_document(lab) | {"up": is_up} for lab, is_up in found]}, table)


@app.command()
def sweep(ctx: typer.Context) -> None:
    """Take down labs whose owner process is gone.

    Example: appliance lab sweep
    """
    from installer.lab.lab import sweep as clear

    screen = screen_of(ctx)
    screen.result({"down": clear(report=screen)}, None)


@app.command("exec")
def execute(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Name of a node, such as try-1.")],
    command: Annotated[list[str], typer.Argument(help="Command and arguments, after --.")],
) -> None:
    """Run a command on a node over SSH and exit with its code.

    Example: appliance lab exec try-1 -- systemctl status
    """
    import os
    import shlex
    import sys

    from installer.lab.lab import labs

    found = [(lab, n.address) for lab, is_up in labs() if is_up for n in lab.nodes if n.name == node]
    if len(found) != 1:
        raise InputError(
            f"there {'are two nodes' if found else 'is no node'} {node}",
            remedy="Look at the nodes there are: appliance lab list",
        )
    [(lab, address)] = found
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    ssh, *rest = lab.ssh(address)
    os.execvp(ssh, [ssh, *terminal, *rest, shlex.join(command)])  # noqa: S606 - ssh takes the terminal over
