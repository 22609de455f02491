"""`appliance kit`: the starting kit for a site that has nothing yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import Keys, PassphraseFile, screen_of
from installer.cli.screen import size


def kit(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle whose verifier goes into the kit.", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to make.")],
    keys: Keys,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the starting kit: what checks the first bundle on a machine that has nothing of appliance yet.

    It holds the verifier, the root of trust and a signed list of hashes; `ssh-keygen` and `sha256sum` are enough to check it.
    Send the printed line on another way than the kit.

    Example: appliance kit dist/demo-1.0.0 --out /media/first/starting-kit
    """
    from installer.cli.nextstep import command
    from installer.trust import kit as making
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase

    store = KeyStore(keys)
    store.root_bytes()
    made = making.make(bundle, out, store, passphrase(passphrase_file, purpose=f"the signing keys in {keys}"))
    screen = screen_of(ctx)
    screen.result(
        {"kit": str(made.path), "allowed_signers": made.line, "fingerprint": made.fingerprint, "size": made.size},
        f"Made {made.path} ({size(made.size)}). README.txt in it says how to check it. Send this line on another way:\n\n"
        f"{made.line}\n\nfingerprint {made.fingerprint}",
    )
    screen.next(
        f"on the control host, when all that README.txt of the kit says is done: {command('site', 'new', 'SITE', '--from', 'BUNDLE', '--root', 'starting-kit/root.json', '--node', 'NAME=ADDRESS', '--clients', 'NETWORK')}"
    )
