"""Commands that sign releases: sign, renew."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from installer.cli.options import MAX_DAYS, Keys, PassphraseFile, PinFile, screen_of
from installer.cli.screen import counted, size

if TYPE_CHECKING:
    from installer.trust.sign import Signed

BundleDir = Annotated[Path, typer.Argument(help="Bundle directory, NAME-VERSION.", metavar="BUNDLE")]


def sign(
    ctx: typer.Context,
    bundle: BundleDir,
    keys: Keys,
    key: Annotated[
        list[Path] | None, typer.Option("--key", help="NAME.pub.json of the key to sign with; may be repeated.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="root.json that names the signers; that of --keys otherwise.")
    ] = None,
    signatures: Annotated[
        list[Path] | None, typer.Option("--signatures", help="targets.json that another signer sent back.")
    ] = None,
    expect: Annotated[str, typer.Option(help="Refuse unless the content digest is this one.", metavar="SHA256")] = "",
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Sign without hashing the files; only if they are not here.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Add a signature to a drafted release, after checking every file of it.

    A release needs as many signatures as `keys init --signatures` said, each from a key on its own machine. The builder
    finishes it: once enough have signed, the same command there adds snapshot and timestamp, and the bundle can be verified.
    Two builders of the same lock get the same content digest: compare it with your own build before you sign.

    \b
    Examples:
      appliance sign dist/ours-1.0.0 --key alice.pub.json --root root.json
      appliance sign dist/ours-1.0.0 --signatures from-alice/targets.json --signatures from-bob/targets.json
    """
    from engine import metadata
    from engine.errors import InputError, TrustError
    from engine.trust import listing
    from engine.verify import compare
    from installer.trust import sign as signing
    from installer.trust import signer
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase, pin

    screen = screen_of(ctx)
    ask_pin = pin(pin_file)
    store = KeyStore(root.parent if root else keys, ask_pin)
    draft = signing.draft_of(metadata.read(bundle))
    trusted = listing(draft.signed, store.root().version)
    digest = signing.content_digest({t.path: t.sha256 for t in trusted.targets.values()})
    if expect and expect.removeprefix("sha256:") != digest:
        raise TrustError(
            f"the content digest is {digest}",
            where=str(bundle),
            remedy="This is not the content you expect; do not sign it.",
        )
    if not metadata_only:
        with screen:
            checked = compare(bundle, trusted, screen)
        if wrong := checked.findings:
            raise TrustError(
                f"{len(wrong)} files are not as listed, first {wrong[0].path} ({wrong[0].problem})",
                where=str(bundle),
                remedy="Do not sign it; copy it again or build it again.",
            )
    files = [signer.read_public(path) for path in key or []]
    if files:
        said = f"{trusted.release}: {counted(len(trusted.targets), 'file')}, {size(trusted.size)}, content digest sha256:{digest}"
        screen.say(said)
        if not yes and not typer.confirm("Sign this release?", err=True):
            raise InputError("nothing was signed", remedy="Give --yes where nobody can answer.")
    secret = passphrase(passphrase_file, purpose="the key" if files else f"the signing keys in {keys}")
    signers = [f.open(secret, ask_pin) for f in files] or store.signers("targets", secret)
    done = signing.add_signatures(bundle, draft, store, secret, signers, signatures or [])
    screen.result(
        {
            "release": trusted.release,
            "content_digest": digest,
            "signatures": list(done.signatures.have),
            "signatures_needed": done.signatures.need,
            "finished": done.finished,
        },
        f"{trusted.release} is signed and complete: {len(done.signatures.have)} of {done.signatures.need} signatures"
        if done.finished
        else still_needed(done),
    )


def still_needed(done: Signed) -> str:
    """What a draft waits for, for a person."""
    if done.signatures.enough:
        return "Enough have signed. Run `appliance sign` on the builder to finish the release."
    could = ", ".join(k[:16] for k in done.signatures.lack)
    return (
        f"A draft: {len(done.signatures.have)} of {done.signatures.need} signatures. Nobody can install it yet.\n"
        f"`appliance sign` adds one; these keys could still: {could}"
    )


def renew(
    ctx: typer.Context,
    bundle: BundleDir,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write; carry it whole.")],
    keys: Keys,
    expires_days: Annotated[int, typer.Option(help="Days until the new metadata expires.", min=1, max=MAX_DAYS)] = 365,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Sign the metadata of a bundle again, without its content: for one that expires, or whose keys were rotated.

    The result is small; inside, `appliance import` of it renews the bundle that is in the depot.
    Signers elsewhere sign it like any release, with --metadata-only.

    Example: appliance renew dist/ours-1.0.0 --out /media/drive/ours-1.0.0-renewal
    """
    from engine import metadata
    from installer.trust import sign as signing
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase, pin

    store = KeyStore(keys, pin(pin_file))
    secret = passphrase(passphrase_file, purpose=f"the signing keys in {keys}")
    done = signing.renew(bundle, out, keys=store, passphrase=secret, days=expires_days, now=datetime.now(UTC))
    written = metadata.size(out)
    screen_of(ctx).result(
        {"directory": str(out), "version": done.version, "size": written, "finished": done.finished},
        f"{out}: renewed metadata, {size(written)}. Inside: appliance import {out}"
        if done.finished
        else f"{out}: {still_needed(done)}",
    )
