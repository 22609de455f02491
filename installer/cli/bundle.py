"""Commands on definitions and bundles: lock, build, verify, inspect, schema."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from installer.cli import compat
from installer.cli.commands import EPILOG
from installer.cli.options import (
    DEFAULT_DEPOT,
    MAX_DAYS,
    Cache,
    Keys,
    PassphraseFile,
    default_cache,
    default_keys,
    screen_of,
)
from installer.cli.screen import counted, size

if TYPE_CHECKING:
    from installer.rehearse.rehearse import Rehearsal

DefinitionFile = Annotated[Path, typer.Argument(help="Definition, bundles/NAME.yml.", metavar="DEFINITION")]
BundleDir = Annotated[Path, typer.Argument(help="Bundle directory, NAME-VERSION.", metavar="BUNDLE")]

NAMED = 10  # of each kind of difference, how many a lock names for people

build_app = typer.Typer(help="Build things that cross the gap.", no_args_is_help=True, rich_markup_mode=None)


def lock(
    ctx: typer.Context,
    definition_file: DefinitionFile,
    cache: Cache,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether and how the lock would change; exit 1 if so.")
    ] = False,
    write_pins: Annotated[
        bool,
        typer.Option(
            "--write-pins",
            help="Also write the pins that wheel sets name, keeping the versions pinned so far where they still fit.",
        ),
    ] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="With --write-pins: take the newest versions that the requirements allow.")
    ] = False,
) -> None:
    """Resolve a definition: every artifact with source, version, size, SHA-256 and licence.

    Writes DEFINITION with the ending .lock.yml. Review its changes like those of any dependency lock.
    Nothing is written when the choices cannot work together (see `appliance check`); the exit code is then 2.

    A wheel set may name a file of pins: the version and SHA-256 of every wheel, without addresses, to be committed.
    What a source serves must then be what is pinned. Exit code 4 names wheels that differ; --write-pins writes the file.

    \b
    Examples:
      appliance lock bundles/demo.yml
      appliance lock bundles/demo.yml --check
      appliance lock bundles/demo.yml --write-pins --upgrade
    """
    from engine.blobs import Blobs
    from engine.errors import InputError
    from installer import definition, lockfile
    from installer.bundle.lock import changes, resolve
    from installer.cli.nextstep import command, given
    from installer.kinds import Work, pins
    from installer.network import host
    from installer.network.hiding import Hiding, hidden

    screen = screen_of(ctx)
    if write_pins and check:
        raise InputError("--check writes nothing, --write-pins writes", remedy="Leave one of them out.")
    if upgrade and not write_pins:
        raise InputError("--upgrade goes with --write-pins", remedy="Add --write-pins, or leave it out.")
    parsed = definition.load(definition_file)
    if write_pins and not any(w.pins for w in parsed.wheels):
        raise InputError(
            "no wheel set of the definition names a file of pins",
            where=str(definition_file),
            remedy=f"Add `pins: {definition_file.stem}.pins.txt` to the set.",
        )
    path = lockfile.path_of(definition_file)
    pinning: Literal["obey", "keep", "upgrade"] = "upgrade" if upgrade else "keep" if write_pins else "obey"
    network = host.read()
    report = Hiding(screen, network)
    work = Work(parsed, definition_file.resolve().parent, Blobs(cache), report, pinning=pinning, reach=network)
    with screen, hidden(network):
        new = resolve(work)
    compat.prove(screen, definition_file, parsed, new)
    pinned = pins.write(work, new) if write_pins else []
    old = lockfile.load_any(path)
    new = lockfile.kept(old, new)
    differences = changes(old, new)
    existed = path.exists()
    unchanged = existed and path.read_text() == lockfile.dump(new)
    if not check and not unchanged:
        lockfile.save(path, new)
    counts = Counter(a.kind for a in new.artifacts)
    inside = ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
    verb = "is unchanged" if unchanged else "would change" if check else "written"
    told = "" if unchanged else _told(differences, known=old is not None, before=existed)
    screen.result(
        {
            "lock": str(path),
            "changed": not unchanged,
            "artifacts": len(new.artifacts),
            "size": new.size,
            "kinds": dict(counts),
            **differences,
            "pins_written": [str(p) for p in pinned],
        },
        f"{path} {verb}: {len(new.artifacts)} artifacts, {size(new.size)} ({inside}){told}"
        + "".join(f"\n{p} written" for p in pinned),
    )
    if check and not unchanged:
        raise typer.Exit(1)
    if not check:
        screen.next(
            command("build", "bundle", *given("--cache", cache, default_cache()), definition_file, "--out", "DIRECTORY")
        )


def _told(differences: dict[str, list[str]], *, known: bool, before: bool) -> str:
    """How a lock differs from the one before it, for people: counted, then by name, unless all is new."""
    if not known:
        return "; the lock that is there cannot be read" if before else ""
    if not any(differences.values()):
        return "; its text alone: the file was edited, or another version wrote it"
    titles = {
        "added": "added", "removed": "removed", "changed": "with other content", "sources": "from another source",
        "details": "described differently", "parts": "other parts",
    }  # fmt: skip
    found = {titles[k]: v for k, v in differences.items() if v}
    lines = [f"\n  {title}: {name}" for title, names in found.items() for name in names[:NAMED]]
    more = sum(len(names[NAMED:]) for names in found.values())
    return (
        "; "
        + ", ".join(f"{len(names)} {title}" for title, names in found.items())
        + "".join(lines)
        + (f"\n  and {more} more; --json names all" if more else "")
    )


@build_app.command("bundle", epilog=EPILOG)
def build(
    ctx: typer.Context,
    definition_file: DefinitionFile,
    keys: Keys,
    cache: Cache,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the bundle directory is made.")] = Path("dist"),
    expires_days: Annotated[
        int, typer.Option(help="Days until the bundle's metadata expires.", min=1, max=MAX_DAYS)
    ] = 365,
    builder_id: Annotated[
        str, typer.Option(help="URI that names this builder in the provenance.")
    ] = "urn:appliance:builder",
    rehash: Annotated[
        bool,
        typer.Option("--rehash", help="Read every byte again, also of files that a build of the last 7 days has read."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; change nothing.")] = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Install it on throw-away nodes first; no bundle is left when that fails."),
    ] = False,
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-i", help="With --rehearse: inventory whose nodes to copy.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Build and sign the bundle that the lock describes.

    Fetches only what is locked, in parallel, and checks every hash; a stopped build continues where it was.
    The result is one directory, OUT/NAME-VERSION, ready to be carried.

    \b
    Examples:
      appliance build bundle bundles/demo.yml
      appliance build bundle bundles/demo.yml --out /media/drive --dry-run
      appliance build bundle bundles/demo.yml --rehearse
    """
    from engine.blobs import Blobs
    from engine.errors import InputError
    from installer import definition, lockfile
    from installer.bundle import build as building
    from installer.cli import rehearse as rehearsing
    from installer.cli import sign as signing
    from installer.cli.nextstep import command, given
    from installer.kinds import Work, pins
    from installer.network import host
    from installer.network.hiding import Hiding, hidden
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase

    screen, store = screen_of(ctx), KeyStore(keys)
    parsed = definition.load(definition_file)
    locked = lockfile.load(lockfile.path_of(definition_file), parsed)
    compat.prove(screen, definition_file, parsed, locked, again=True)
    blobs = Blobs(cache)
    pins.require_locked(Work(parsed, definition_file.resolve().parent, blobs), locked)
    missing = {a.sha256: a.size for a in locked.artifacts if not blobs.has(a.sha256, a.size)}
    if dry_run:
        screen.result(
            {
                "release": parsed.release,
                "artifacts": len(locked.artifacts),
                "size": locked.size,
                "fetch": len(missing),
                "fetch_size": sum(missing.values()),
            },
            f"{parsed.release}: {len(locked.artifacts)} artifacts, {size(locked.size)}; would fetch {len(missing)} of them, {size(sum(missing.values()))}",
        )
        return
    secret = passphrase(passphrase_file, purpose=f"the signing keys in {keys}")
    if inventory and not rehearse:
        raise InputError("-i goes with --rehearse", remedy="Add --rehearse, or leave it out.")
    if rehearse:
        rehearsing.require_possible(parsed, locked, inventory, store, secret)
    store.signers("timestamp", secret)  # a wrong passphrase shows now, not after the downloads
    from installer.trust.secret import private_copy

    rehearsals: list[Rehearsal] = []

    def prove(staging: Path) -> None:
        if rehearse:
            rehearsals.append(rehearsing.demand(screen, staging, store, inventory))

    network = host.read()
    with screen, hidden(network), private_copy(secret) as secret_file:
        work = Work(
            parsed,
            definition_file.resolve().parent,
            blobs,
            Hiding(screen, network),
            apt_key=(store.apt_key, secret_file),
            reach=network,
        )
        building.require_space(out, locked.artifacts, work)
        built = building.build(
            parsed,
            locked,
            work,
            out,
            keys=store,
            passphrase=secret,
            days=expires_days,
            now=datetime.now(UTC),
            builder=builder_id,
            rehash=rehash,
            prove=prove,
        )
    screen.result(
        {
            "bundle": str(built.path),
            "release": built.release,
            "version": built.signed.version,
            "finished": built.signed.finished,
            "signatures": len(built.signed.signatures.have),
            "signatures_needed": built.signed.signatures.need,
            "files": built.files,
            "size": built.size,
            "content_digest": built.content_digest,
            "unread": built.unread,
            "unread_size": built.unread_size,
            "rehearsal": rehearsing.document(rehearsals[0]) if rehearsals else None,
        },
        "".join(f"{rehearsing.lines(r)}\n" for r in rehearsals)
        + f"Built {built.path}: {counted(built.files, 'file')}, {size(built.size)}\ncontent digest sha256:{built.content_digest}"
        + (
            f"\n{counted(built.unread, 'file')} ({size(built.unread_size)}) {'is' if built.unread == 1 else 'are'} as builds of the last week read {'it; --rehash reads it' if built.unread == 1 else 'them; --rehash reads them'} again"
            if built.unread
            else ""
        )
        + ("" if built.signed.finished else f"\n{signing.still_needed(built.signed)}"),
    )
    if built.signed.finished:
        screen.next(command("verify", *given("--keys", keys, default_keys()), built.path))


def verify(
    ctx: typer.Context,
    bundle: BundleDir,
    root: Annotated[
        Path | None, typer.Option("--root", help="Pinned root of trust (root.json). Never take it from the bundle.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")
    ] = None,
    depot: Annotated[
        Path | None, typer.Option("--depot", help="For a delta: what this depot holds need not be in the bundle.")
    ] = None,
    expect_builder: Annotated[
        str,
        typer.Option(
            "--expect-builder",
            metavar="URI",
            help="Refuse a bundle whose provenance names another builder, or does not fit its lock and files.",
        ),
    ] = "",
) -> None:
    """Check a bundle: signatures first, then every file against them.

    Names every file that is missing, extra, changed or unsigned. Exit code 3 when anything is wrong. A volume is checked alone.
    On a control host (without --root) the depot's stored state counts too: what `import` would refuse as too old is refused here.

    \b
    Examples:
      appliance verify --root /etc/appliance/root.json /media/drive/demo-1.0.0
      appliance verify dist/demo-1.0.0 --json
      appliance verify /media/drive/demo-1.0.0 --expect-builder https://ci.example.org/appliance
    """
    from installer.carry.volumes import is_volume
    from installer.cli.checking import check
    from installer.cli.nextstep import after_verify

    screen, (pinned, where) = screen_of(ctx), pinned_root(root, keys)
    state = depot or (DEFAULT_DEPOT if root is None and keys is None else None)
    if code := check(screen, bundle, pinned, where, depot, expect_builder, state):
        raise typer.Exit(code)
    builders = [keys] if keys else [default_keys()]
    screen.next(*after_verify(bundle, where, builders, DEFAULT_DEPOT, partial=bool(depot) or is_volume(bundle)))


def pinned_root(root: Path | None, keys: Path | None) -> tuple[bytes, str]:
    """The pinned root: as given, else the depot's, else the builder's own.

    Raises:
        InputError: there is none.
    """
    from installer.cli.checking import read_pinned

    return read_pinned(
        [root]
        if root
        else [keys / "root.json"]
        if keys
        else [DEFAULT_DEPOT / "root.json", default_keys() / "root.json"]
    )


def inspect(
    ctx: typer.Context,
    bundle: BundleDir,
    root: Annotated[Path | None, typer.Option("--root", help="Pinned root of trust (root.json).")] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")
    ] = None,
) -> None:
    """Show what a bundle holds. Reads signed metadata only; `verify` checks the files.

    Example: appliance inspect dist/demo-1.0.0
    """
    from engine import verify as verifying
    from installer.cli.tables import Table
    from installer.trust.sign import content_digest

    pinned, _ = pinned_root(root, keys)
    trusted = verifying.open_bundle(bundle, pinned)
    table = Table("kind", "files", "size")
    kinds: dict[str, tuple[int, int]] = {}
    for target in trusted.targets.values():
        files, total = kinds.get(target.kind, (0, 0))
        kinds[target.kind] = (files + 1, total + target.size)
    for kind, (files, total) in sorted(kinds.items()):
        table.add_row(kind, str(files), size(total))
    data = {
        "release": trusted.release,
        "version": trusted.version,
        "expires": trusted.expires,
        "content_digest": content_digest({t.path: t.sha256 for t in trusted.targets.values()}),
        "kinds": {k: {"files": f, "size": s} for k, (f, s) in kinds.items()},
    }
    table.caption = f"{trusted.release}, version {trusted.version}, content digest sha256:{data['content_digest']}"
    screen_of(ctx).result(data, table)


def schema(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(help="definition, lock or site.")] = "definition",
) -> None:
    """Print the JSON Schema of a file format.

    Example: appliance schema definition > definition.schema.json
    """
    from engine.errors import InputError
    from installer.schema import SCHEMAS

    if which not in SCHEMAS:
        raise InputError(f"no schema is called {which}", remedy=f"Choose one of: {', '.join(SCHEMAS)}.")
    import json

    document = SCHEMAS[which]()
    screen_of(ctx).result(document, json.dumps(document, indent=2, sort_keys=True))
