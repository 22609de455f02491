"""Options that many commands share, each declared once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from installer.cli.screen import Screen


def screen_of(ctx: typer.Context) -> Screen:
    """The screen that the global options ask for."""
    screen = ctx.find_root().obj
    return screen if isinstance(screen, Screen) else Screen()


def _home(kind: str, fallback: str) -> Path:
    """Where this user's files of a kind are, as the XDG specification says: a relative path in the variable counts as none.

    Raises:
        InputError: neither the environment nor the list of users names a home directory.
    """
    if (named := Path(os.environ.get(f"XDG_{kind}_HOME", ""))).is_absolute():
        return named / "appliance"
    try:
        return Path.home() / fallback / "appliance"
    except RuntimeError as error:
        from engine.errors import InputError

        raise InputError(
            "this user has no home directory", remedy="Set HOME, or name the directory with --keys and --cache."
        ) from error


def default_keys() -> Path:
    return _home("CONFIG", ".config") / "keys"


def default_cache() -> Path:
    return _home("CACHE", ".cache")


MAX_DAYS = 36500  # a hundred years; no calendar here goes on for ever
Keys = Annotated[
    Path,
    typer.Option(
        "--keys",
        help="Directory of the signing keys.",
        default_factory=default_keys,
        show_default="~/.config/appliance/keys",
    ),
]
Cache = Annotated[
    Path,
    typer.Option(
        "--cache",
        help="Verified downloads, kept between builds.",
        default_factory=default_cache,
        show_default="~/.cache/appliance",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="APPLIANCE_PASSPHRASE_FILE",
        help="File with the passphrase, readable by you alone; asked for otherwise.",
    ),
]
PinFile = Annotated[
    Path | None,
    typer.Option(
        "--pin-file",
        envvar="APPLIANCE_PIN_FILE",
        help="File with the PIN of a token, readable by you alone; asked for otherwise.",
    ),
]
SiteKeys = Annotated[
    Path, typer.Option("--site-keys", help="Directory of the site's own key, which signs receipts and reports.")
]
DEFAULT_SITE_KEYS = Path("/var/lib/appliance/site")
DEFAULT_CA = Path("/var/lib/appliance/ca")
DEFAULT_RUNS = Path("/var/lib/appliance/runs")
DEFAULT_EVIDENCE = Path("/var/lib/appliance/evidence")
AllowDowngrade = Annotated[
    str,
    typer.Option(
        "--allow-downgrade",
        metavar="REASON",
        help="Accept an older bundle than the newest seen; the reason is kept on record.",
    ),
]
Approvals = Annotated[
    list[Path] | None,
    typer.Option(
        "--approval",
        metavar="FILE",
        help="With --allow-downgrade: what `trust approve-downgrade` wrote for another person; may be repeated.",
    ),
]


def require_downgrade(approvals: list[Path] | None, reason: str) -> None:
    """An approval means nothing without the downgrade that it approves.

    Raises:
        InputError: one is given without the other.
    """
    from engine.errors import InputError

    if approvals and not reason:
        raise InputError(
            "--approval is given without --allow-downgrade", remedy="Give the reason with --allow-downgrade."
        )


Root = Annotated[
    Path | None, typer.Option("--root", help="Pinned root of trust (root.json); the depot's once it has one.")
]
DepotDir = Annotated[Path, typer.Option("--depot", help="Verified store on the control host.")]
DEFAULT_DEPOT = Path("/var/lib/appliance/depot")
