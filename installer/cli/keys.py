"""`appliance keys`: the signing keys of the builder and of those who sign with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.options import MAX_DAYS, Keys, PassphraseFile, PinFile, screen_of

if TYPE_CHECKING:
    from installer.trust.keys import Rotation
    from installer.trust.signer import KeyFile

app = typer.Typer(help="Make, show, rotate and revoke the signing keys.", no_args_is_help=True, rich_markup_mode=None)
RootDays = Annotated[int, typer.Option("--days", help="Days until the root expires.", min=1, max=MAX_DAYS)]
RootKeys = Annotated[
    list[Path] | None,
    typer.Option("--root-key", help="NAME.pub.json of a root key on another medium, its private half beside it."),
]


@app.command()
def init(
    ctx: typer.Context,
    keys: Keys,
    root_keys: Annotated[int, typer.Option(help="How many root keys to make.")] = 3,
    threshold: Annotated[int, typer.Option(help="How many of them must sign a new root.")] = 2,
    signers: Annotated[
        list[Path] | None,
        typer.Option("--signer", help="NAME.pub.json of a person or token that signs releases; may be repeated."),
    ] = None,
    signatures: Annotated[int, typer.Option(help="How many of the signers must sign a release.")] = 1,
    days: RootDays = 730,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the signing keys, once for each builder.

    Root keys are needed only to rotate keys: move root-* to separate safe media afterwards.
    root.json is public: give it to every control host on another way than the bundles.
    With --signer the builder alone cannot release: it drafts, and others sign with `appliance sign`.

    \b
    Examples:
      appliance keys init --root-keys 3 --threshold 2
      appliance keys init --signer alice.pub.json --signer bob.pub.json --signatures 2
    """
    from installer.cli.nextstep import command
    from installer.trust import signer
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase

    store = KeyStore(keys)
    release_keys = [signer.read_public(path).public for path in signers or []]
    secret = passphrase(passphrase_file, purpose="the signing keys", confirm=True)
    root = store.create(
        secret, root_keys=root_keys, threshold=threshold, days=days, now=datetime.now(UTC),
        release_keys=release_keys, signatures=signatures,
    )  # fmt: skip
    who = f"{signatures} of {len(release_keys)} signers" if release_keys else "this builder"
    screen = screen_of(ctx)
    screen.result(
        {
            "keys": str(keys),
            "root": str(store.root_path),
            "root_keys": root_keys,
            "threshold": threshold,
            "signatures": root.roles["targets"].threshold,
        },
        f"Made the signing keys in {keys}; {threshold} of {root_keys} root keys are needed for a new root, {who} for a release.\n"
        f"Give {store.root_path} to every control host; move root-* to separate safe media.",
    )
    screen.next(
        f"{command('lock', 'DEFINITION.yml')}, with --write-pins where it names a file of pins that is not there yet"
    )


@app.command()
def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the key, for example alice.", metavar="NAME")],
    directory: Annotated[Path, typer.Option("--in", help="Directory for the key's files.")] = Path(),
    token: Annotated[
        int | None, typer.Option("--token", help="Use the ECDSA key with this id on a PKCS#11 token.", metavar="ID")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--token-label", help="Label of the token, if there are several.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Make a key for one more person, or note the key of a token. Give NAME.pub.json to the builder.

    A token's driver is named by the environment variable PYKCS11LIB; the private half stays on the token.

    \b
    Examples:
      appliance keys new alice --in ~/keys
      PYKCS11LIB=/usr/lib/softhsm/libsofthsm2.so appliance keys new bob --token 2 --token-label release
    """
    from installer.trust import signer
    from installer.trust.secret import passphrase, pin

    if token is None:
        made = signer.new_file(directory, name, passphrase(passphrase_file, purpose=f"the key {name}", confirm=True))
    else:
        made = signer.new_from_token(directory, name, token, label, pin(pin_file))
    screen_of(ctx).result(
        {"name": name, "keyid": made.public.keyid, "public": str(made.path), "type": made.public.keytype},
        f"Made {name} ({made.public.keytype}, key id {made.public.keyid[:16]}); give {made.path} to the builder.",
    )


@app.command()
def show(ctx: typer.Context, keys: Keys) -> None:
    """Show the public keys and the root in force.

    Example: appliance keys show --json
    """
    from installer.cli.tables import Table
    from installer.trust.keys import KeyStore

    root, rows = KeyStore(keys).describe()
    table = Table(
        "role", "threshold", "key", "type", "name", "private half",
        caption=f"root version {root.version}, expires {root.expires:%Y-%m-%d}",
    )  # fmt: skip
    for row in rows:
        where = "here" if row.here else "elsewhere"
        table.add_row(row.role, str(root.roles[row.role].threshold), row.keyid[:16], row.type, row.name, where)
    screen_of(ctx).result(
        {
            "version": root.version,
            "expires": root.expires.isoformat(),
            "thresholds": {name: role.threshold for name, role in root.roles.items()},
            "keys": [vars(r) for r in rows],
        },
        table,
    )


@app.command()
def rotate(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.", metavar="ROLE")],
    keys: Keys,
    add: Annotated[
        list[Path] | None, typer.Option("--key", help="NAME.pub.json of a key to add; may be repeated.")
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(help="Name or key id (or its beginning) to revoke; may be repeated.")
    ] = None,
    threshold: Annotated[int | None, typer.Option(help="New number of signatures the role needs.")] = None,
    root_key: RootKeys = None,
    days: RootDays = 730,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Replace, add or revoke keys of a role with a new root, signed by the threshold of root keys.

    Without --key, --revoke and --threshold a role held here gets a fresh key and its present keys are revoked.
    Without enough root keys at hand, the new root waits; `sign-root` adds signatures on other machines.
    Afterwards every bundle that still counts must be signed anew: `appliance renew`.

    \b
    Examples:
      appliance keys rotate timestamp --root-key /media/a/root-1.pub.json --root-key /media/b/root-2.pub.json
      appliance keys rotate targets --revoke alice --key carol.pub.json
    """
    from engine.errors import InputError
    from installer.trust import roots, signer
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase, pin

    store = KeyStore(keys, pin(pin_file))
    if role not in roots.ROLES:
        raise InputError(f"there is no role {role}", remedy=f"Choose one of: {', '.join(roots.ROLES)}.")
    secret = passphrase(passphrase_file, purpose=f"the signing keys in {keys}")
    others = [signer.read_public(path) for path in root_key or []]
    _, rows = store.describe()
    mine = [r for r in rows if r.role == role]
    added = [signer.read_public(path).public for path in add or []]
    revoked = [_chosen(word, mine) for word in revoke or []]
    if not added and not revoked and threshold is None:
        if role == "root":
            raise InputError(
                "root keys are replaced by name", remedy="Make one with `keys new`; give --key and --revoke."
            )
        if not all(r.here for r in mine):
            raise InputError(
                f"not all keys of {role} are here",
                where=str(keys),
                remedy="Say what to --revoke and which --key to add.",
            )
        fresh = signer.new_file(keys, f"{role}-{store.root().version + 1}", secret)
        added, revoked = [fresh.public], [r.keyid for r in mine]
    change = roots.Change(role, tuple(added), tuple(revoked), threshold)
    rotation = store.rotate(change, secret, days=days, now=datetime.now(UTC), others=others)
    screen_of(ctx).result(_rotation(rotation), _told(rotation))


@app.command("sign-root")
def sign_root(
    ctx: typer.Context,
    keys: Keys,
    root_key: RootKeys = None,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
) -> None:
    """Sign the new root that waits for signatures, with the root keys that are here or given.

    Carry root.pending.json and the *.root.json files to the machine that has the key, or the key's medium to this one.

    Example: appliance keys sign-root --root-key /media/b/root-2.pub.json
    """
    from installer.trust import signer
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase, pin

    secret = passphrase(passphrase_file, purpose="the root keys")
    others: list[KeyFile] = [signer.read_public(path) for path in root_key or []]
    rotation = KeyStore(keys, pin(pin_file)).sign_root(secret, others)
    screen_of(ctx).result(_rotation(rotation), _told(rotation))


@app.command()
def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="Directory to write, for example trust-update.", metavar="DIRECTORY")],
    keys: Keys,
) -> None:
    """Write the chain of roots as a trust update: a few kB that tell a site which keys count from now on.

    Inside, `appliance trust update DIRECTORY` follows it. Every bundle carries the same chain.

    Example: appliance keys export /media/drive/trust-update
    """
    from engine import metadata
    from engine.errors import InputError
    from installer.trust.keys import KeyStore

    chain = KeyStore(keys).root_chain()
    if not chain:
        raise InputError("no signing keys here", where=str(keys), remedy="Name the directory with --keys.")
    metadata.write(out, {metadata.root_name(version): data for version, data in chain.items()})
    written = sum(len(d) for d in chain.values())
    screen_of(ctx).result(
        {"directory": str(out), "version": max(chain), "size": written},
        f"{out}: {len(chain)} roots, newest version {max(chain)}, {written} bytes. Inside: appliance trust update {out}",
    )


def _chosen(word: str, rows: list[Any]) -> str:
    from engine.errors import InputError

    found = [r.keyid for r in rows if r.name == word or (len(word) >= 8 and r.keyid.startswith(word))]
    if len(found) != 1:
        raise InputError(f"{word!r} names {len(found)} keys of this role", remedy="`appliance keys show` lists them.")
    return str(found[0])


def _rotation(rotation: Rotation) -> dict[str, Any]:
    return {
        "version": rotation.version,
        "published": rotation.published,
        "signatures": [{"have": len(s.have), "need": s.need, "lack": list(s.lack)} for s in rotation.signatures],
    }


def _told(rotation: Rotation) -> str:
    if rotation.published:
        return (
            f"Root version {rotation.version} is in force. Sign the bundles that still count anew with `appliance renew`,\n"
            "and send the chain ahead with `appliance keys export`."
        )
    lines = [
        f"{len(s.have)} of {s.need} root keys signed; could still: {', '.join(k[:16] for k in s.lack)}"
        for s in rotation.signatures
    ]
    return f"Root version {rotation.version} waits for signatures (`appliance keys sign-root`):\n  " + "\n  ".join(
        dict.fromkeys(lines)
    )
