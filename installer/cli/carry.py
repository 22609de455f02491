"""Commands on both sides of the gap: diff, delta, receipt."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from installer.cli.bundle import pinned_root
from installer.cli.options import DEFAULT_DEPOT, DEFAULT_SITE_KEYS, DepotDir, PassphraseFile, SiteKeys, screen_of
from installer.cli.screen import counted, size

RootFile = Annotated[Path | None, typer.Option("--root", help="Pinned root of trust (root.json).")]
KeysDir = Annotated[Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")]


def diff(
    ctx: typer.Context,
    old: Annotated[Path, typer.Argument(help="The bundle that is there.", metavar="OLD")],
    new: Annotated[Path, typer.Argument(help="The bundle that would follow.", metavar="NEW")],
    root: RootFile = None,
    keys: KeysDir = None,
) -> None:
    """Compare two bundles file by file, and say how much would have to be carried. Reads signed metadata only.

    Example: appliance diff dist/ours-1.0.0 dist/ours-1.1.0
    """
    from engine.verify import open_bundle
    from installer.carry.compare import difference
    from installer.cli.tables import Table

    pinned, _ = pinned_root(root, keys)
    before, after = open_bundle(old, pinned), open_bundle(new, pinned)
    found = difference(before, after)
    table = Table(
        "", "file", "kind", "old", "new",
        caption=f"{before.release} → {after.release}: {len(found.changes)} differ, {found.unchanged} do not; "
        f"{size(found.to_carry)} to carry of {size(after.size)}",
    )  # fmt: skip
    for change in found.changes:
        sizes = [size(n) if n is not None else "" for n in (change.old, change.new)]
        table.add_row(change.what, change.path, change.kind, *sizes)
    screen_of(ctx).result(
        {
            "old": before.release,
            "new": after.release,
            "changes": [vars(c) for c in found.changes],
            "unchanged": found.unchanged,
            "to_carry": found.to_carry,
            "to_carry_files": len(found.lacking),
        },
        table,
    )


def delta(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="The new bundle, whole.", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")],
    base: Annotated[
        list[Path] | None, typer.Option("--base", help="A bundle that the site has; may be repeated.")
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="The site's receipt, which says exactly what it has.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="The site's site.pub.json, which checks the receipt.")
    ] = None,
    patch: Annotated[
        bool,
        typer.Option(
            "--patch",
            help="Carry patches in place of files where clearly smaller: of files of which --base has older ones, and of wheels that a runtime image of the release holds. Their list is signed with --keys.",
        ),
    ] = False,
    root: RootFile = None,
    keys: KeysDir = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write only what the receiver lacks: all signed metadata, and the files whose content is not there yet.

    Inside, `appliance import` takes the rest from the depot. With a receipt nothing has to be remembered on this side;
    patches need the base's files as well, so give --base beside it.

    \b
    Examples:
      appliance delta dist/ours-1.1.0 --base dist/ours-1.0.0 --out /media/drive/ours-1.1.0
      appliance delta dist/ours-1.1.0 --base dist/ours-1.0.0 --patch --out /media/drive/ours-1.1.0
      appliance delta dist/ours-1.1.0 --receipt site-a.receipt.json --site site-a.pub.json --out /media/drive/ours-1.1.0
    """
    from contextlib import nullcontext

    from engine.errors import InputError
    from engine.verify import open_bundle
    from installer.carry import delta as deltas
    from installer.carry import patches
    from installer.carry import receipt as receipts
    from installer.carry.patching import Base, Patcher
    from installer.cli.options import default_keys
    from installer.trust.keys import KeyStore
    from installer.trust.secret import passphrase

    if not base and not receipt:
        raise InputError("what the site has is not said", remedy="Give --base or --receipt.")
    if patch and not base:
        raise InputError(
            "a patch is made from the file before it", remedy="Give --base with a bundle that the site has, too."
        )
    if receipt and not site:
        raise InputError(
            "a receipt without the site's key proves nothing", remedy="Give --site with its site.pub.json."
        )
    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    trusted = open_bundle(bundle, pinned)
    bases = [Base(b, open_bundle(b, pinned)) for b in base or []]
    told = receipts.read(receipt, site) if receipt and site else None
    have = {c.sha256 for c in told.contents} if told else {t.sha256 for b in bases for t in b.trusted.targets.values()}
    patching = None
    if patch:
        store = KeyStore(keys or default_keys())
        secret = passphrase(passphrase_file, purpose=f"the signing keys in {store.directory}")
        signers = store.signers(patches.ROLE, secret)
        patcher = Patcher(Base(bundle, trusted), bases, have, told.libzstd if told else "")
        patching = deltas.Patching(patcher, signers)
    with screen, patching.patcher if patching else nullcontext():
        made = deltas.write(bundle, trusted, out, have, screen, patching)
    screen.result(
        {
            "delta": str(made.path),
            "release": made.release,
            "files": made.files,
            "size": made.size,
            "whole": made.whole,
            "patches": [
                {"base": p.base_path, "size": p.size, "replaces": p.target_size, "sha256": p.target}
                for p in made.patches
            ],
        },
        f"{made.path}: {counted(made.files, 'file')}, {size(made.size)} of {size(made.whole)} ({made.size / max(made.whole, 1):.1%})"
        + (
            f", among them {len(made.patches)} patches ({size(sum(p.size for p in made.patches))} for {size(made.replaced)})"
            if made.patches
            else ""
        )
        + f". Inside: appliance import {made.path}",
    )


def split(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle or delta.", metavar="BUNDLE")],
    volume_size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="Size of each medium, for example 4G, 700M, 64GB.")
    ] = "",
    media: Annotated[
        list[Path] | None, typer.Option("--media", help="Mounted medium, whose free space is used; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="With --size: where the volumes are made.")] = Path(
        "volumes"
    ),
    only: Annotated[
        list[int] | None, typer.Option("--only", help="Write just this volume again; may be repeated.")
    ] = None,
    parity: Annotated[
        int,
        typer.Option(
            help="How many more volumes to write, so that as many lost ones can be made again.", min=0, max=64
        ),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    root: RootFile = None,
    keys: KeysDir = None,
) -> None:
    """Split a bundle over the fewest media. Every volume can be checked alone and taken in in any order.

    Each volume is a directory with a LABEL.txt to print: what it is, how to check it, and a custody sheet. Large files are cut
    where the bundle has signed hashes of their pieces.

    \b
    Examples:
      appliance split dist/ours-1.0.0 --size 25G --out volumes
      appliance split dist/ours-1.0.0 --media /media/a --media /media/b
      appliance split dist/ours-1.0.0 --size 25G --out volumes --only 3
      appliance split dist/ours-1.0.0 --size 25G --out volumes --parity 1
    """
    from engine.errors import InputError
    from engine.verify import open_bundle
    from installer.carry import parity as parities
    from installer.carry import patches, volumes

    if parity and (media or only):
        raise InputError(
            "parity is made of a whole set below --out", remedy="Give --parity with --size and without --only."
        )
    if bool(volume_size) == bool(media):
        raise InputError("the media are not said", remedy="Give --size or --media (one of the two).")
    if absent := [m for m in media or () if not m.is_dir()]:  # made here, it would be on this machine's own disk
        raise InputError(
            "there is no such directory", where=str(absent[0]), remedy="Mount the medium there, or correct --media."
        )
    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    trusted = open_bundle(bundle, pinned)
    trusted = patches.extended(trusted, patches.read(trusted))
    planned = volumes.layout(
        bundle, trusted, size=_bytes(volume_size) if volume_size else 0, media=tuple(media or ()), out=out
    )
    numbers = only or range(1, len(planned.volumes) + 1)
    made: list[Path] = []
    if not dry_run:
        volumes.require_room(planned, *numbers)
        with screen:
            for number in numbers:
                volumes.write(bundle, trusted, planned, number, datetime.now(UTC), screen)
            if parity:
                made = parities.write(planned, trusted, [out] * parity, datetime.now(UTC), screen)
    rows = [
        {
            "volume": str(planned.media[n - 1]),
            "number": n,
            "files": len(planned.volumes[n - 1].items),
            "size": planned.volumes[n - 1].size,
        }
        for n in numbers
    ]
    screen.result(
        {
            "release": planned.release,
            "volumes": rows,
            "of": len(planned.volumes),
            "written": not dry_run,
            "not_here": planned.not_here,
            "parity": [str(p) for p in made],
        },
        "\n".join(
            [
                *(f"{r['volume']}: {counted(int(str(r['files'])), 'file')}, {size(int(str(r['size'])))}" for r in rows),
                *(f"{p}: parity" for p in made),
            ]
        )
        + f"\n{planned.release} {'would need' if dry_run else 'is on'} {counted(len(planned.volumes), 'volume')}; print LABEL.txt of each"
        + (
            f"\nThis is a delta: the site must have {counted(planned.not_here, 'other file')}"
            if planned.not_here
            else ""
        ),
    )


def recover(
    ctx: typer.Context,
    media: Annotated[
        list[Path], typer.Argument(help="Volumes that can be read, data and parity.", metavar="VOLUME...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the missing volumes are made.")],
    root: RootFile = None,
    keys: KeysDir = None,
) -> None:
    """Make lost volumes again from the others and from parity (`split --parity`).

    What comes out is compared with the signed hashes, so parity itself need not be trusted.

    Example: appliance recover /media/a/ours-1.0.0.1-of-3 /media/c/ours-1.0.0.3-of-3 /media/p/ours-1.0.0.parity-1-of-1 --out recovered
    """
    from engine.verify import open_bundle
    from installer.carry import parity as parities
    from installer.carry import patches

    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    trusted = open_bundle(media[0], pinned)
    trusted = patches.extended(trusted, patches.read(trusted))
    out.mkdir(parents=True, exist_ok=True)
    with screen:
        made = parities.recover(media, trusted, out, screen)
    screen.result(
        {"recovered": [str(m) for m in made]},
        "\n".join(f"{m}: recovered" for m in made) or "No data volume is missing; nothing to recover",
    )


def _bytes(text: str) -> int:
    """A size as people write it; G and GB are powers of ten, Gi and GiB of two, as media and file systems are sold."""
    import re

    from engine.errors import InputError

    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InputError(f"{text!r} is not a size", remedy="Write it like 4G, 700M or 24.5GiB.")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


def receipt(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    depot: DepotDir = DEFAULT_DEPOT,
    runs: Annotated[Path, typer.Option("--runs", help="Where the reports of installs are kept.")] = Path(
        "/var/lib/appliance/runs"
    ),
    site_keys: SiteKeys = DEFAULT_SITE_KEYS,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write a signed list of what this site holds: releases, contents by hash, and how the last install ended.

    The builder makes an exact delta from it, and it is the evidence that a release arrived. The first receipt makes the
    site's key; give site.pub.json to the builder once, and let them compare the key id.

    Example: appliance receipt --out /media/drive/site-a.receipt.json
    """
    from installer.carry import receipt as receipts
    from installer.depot import Depot
    from installer.trust.secret import passphrase

    gathered = receipts.gather(Depot(depot), runs, datetime.now(UTC))
    secret = passphrase(passphrase_file, purpose=f"the site's key in {site_keys}")
    made = receipts.write(gathered, out, site_keys, secret)
    screen_of(ctx).result(
        {
            "receipt": str(made.path),
            "keyid": made.keyid,
            "public": str(made.public),
            "contents": made.contents,
            "releases": [r.release for r in gathered.releases],
        },
        f"{made.path}: {', '.join(r.release for r in gathered.releases) or 'no release'}, {made.contents} contents, "
        f"signed by {made.keyid[:16]} ({made.public})",
    )


def report(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="report.dsse.json of a run.", metavar="FILE")],
    site: Annotated[Path, typer.Option("--site", help="The site's site.pub.json, compared by key id.")],
) -> None:
    """Check the signature of an install's report and print what it says.

    Example: appliance report runs/20261121T080000.000000Z/report.dsse.json --site site.pub.json
    """
    from engine import strictjson
    from engine.errors import TrustError
    from installer.site.install import REPORT
    from installer.trust import envelope

    try:
        said = strictjson.loads(envelope.unseal(file, REPORT, site))
        nodes = ", ".join(f"{node} ({about['changed']} changed)" for node, about in said["nodes"].items())
        verdict = "good" if said["good"] else "NOT GOOD"
        line = f"{said['release']} on {said['started']}: {verdict}; {nodes}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError(
            "what the site signed is no report", where=str(file), remedy="Ask the site for it again."
        ) from error
    screen_of(ctx).result(said, line)
