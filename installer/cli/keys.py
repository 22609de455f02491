"""`appliance keys`: the signing keys of the builder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from installer.cli.options import Keys, PassphraseFile, screen_of

app = typer.Typer(help="Make and show the signing keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def init(
    ctx: typer.Context,
    keys: Keys,
    root_keys: Annotated[int, typer.Option(help="How many root keys to make.")] = 3,
    threshold: Annotated[int, typer.Option(help="How many of them must sign a new root.")] = 2,
    days: Annotated[int, typer.Option(help="Days until the root expires.")] = 730,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the signing keys, once for each builder.

    Root keys are needed only to rotate keys: move root-*.pem to separate safe media afterwards.
    root.json is public: give it to every control host on another way than the bundles.

    Example: appliance keys init --keys /media/safe/keys --root-keys 3 --threshold 2
    """
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase

    store = KeyStore(keys)
    secret = passphrase(passphrase_file, purpose="the signing keys", confirm=True)
    store.create(secret, root_keys=root_keys, threshold=threshold, days=days, now=datetime.now(UTC))
    screen_of(ctx).result(
        {"keys": str(keys), "root": str(store.root_path), "root_keys": root_keys, "threshold": threshold},
        f"Made the signing keys in {keys}; {threshold} of {root_keys} root keys are needed for a new root.\n"
        f"Give {store.root_path} to every control host; move root-*.pem to separate safe media.",
    )


@app.command()
def show(ctx: typer.Context, keys: Keys) -> None:
    """Show the public keys and the root in force.

    Example: appliance keys show --json
    """
    from rich.table import Table

    from installer.trust.keys import KeyStore

    root, rows = KeyStore(keys).describe()
    table = Table("role", "threshold", "key", "type", box=None)
    for row in rows:
        table.add_row(row.role, str(root.roles[row.role].threshold), row.keyid[:16], row.type)
    screen_of(ctx).result(
        {"version": root.version, "expires": root.expires.isoformat(), "keys": [vars(r) for r in rows]},
        table,
    )
