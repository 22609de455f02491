"""Commands for those who answer for what crosses: sbom, page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.bundle import pinned_root
from installer.cli.options import screen_of
from installer.cli.screen import size

if TYPE_CHECKING:
    from installer.evidence.contents import Change

RootFile = Annotated[Path | None, typer.Option("--root", help="Pinned root of trust (root.json).")]
KeysDir = Annotated[Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")]


def sbom(
    ctx: typer.Context,
    bundles: Annotated[
        list[Path], typer.Argument(help="Bundle; two with --diff, the older first.", metavar="BUNDLE...")
    ],
    diff: Annotated[
        bool, typer.Option("--diff", help="What was added, removed or changed between two bundles.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write the bill of materials to.")] = None,
    root: RootFile = None,
    keys: KeysDir = None,
) -> None:
    """Print a bundle's CycloneDX bill of materials, or what differs between those of two bundles.

    Signatures are checked first, and the bill is compared with its signed hash.

    \b
    Examples:
      appliance sbom dist/ours-1.0.0 --out ours.cdx.json
      appliance sbom --diff dist/ours-1.0.0 dist/ours-1.1.0
    """
    import json

    from engine import durable
    from engine.errors import InputError
    from installer.evidence import contents

    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    if len(bundles) != (2 if diff else 1):
        raise InputError(f"{len(bundles)} bundles are given", remedy="Give one, or two with --diff.")
    if diff:
        old, new = (contents.read(b, pinned) for b in bundles)
        found = contents.changes(old.lock, new.lock)
        data = {"old": old.trusted.release, "new": new.trusted.release, "changes": [_document(c) for c in found]}
        screen.result(data, _table(found, f"{old.trusted.release} → {new.trusted.release}"))
        return
    text = contents.sbom(bundles[0], pinned)
    if out:
        durable.write(out, text)
        screen.result({"sbom": str(out), "size": len(text)}, f"Wrote {out}, {size(len(text))}")
    else:
        screen.result(json.loads(text), text.decode())


def page(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle directory, NAME-VERSION.", metavar="BUNDLE")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="An older bundle, to show the changes; else the newest older one of this name beside BUNDLE."
        ),
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Also for a release that not enough have signed yet; the page says so.")
    ] = False,
    signer: Annotated[
        list[Path] | None,
        typer.Option("--signer", help="NAME.pub.json of a person who signs, to print the name; may be repeated."),
    ] = None,
    root: RootFile = None,
    keys: KeysDir = None,
) -> None:
    """Write one HTML page about a bundle, for a change board: who signed, what changes, licences, remarks, contents.

    It needs no network and holds no script; open it in any browser or print it. The page itself is not signed: `verify`
    prints the keys that signed, `inspect` the content digest, to compare with it. Names of keys come from key files here.

    \b
    Examples:
      appliance page dist/ours-1.1.0 --out ours-1.1.0.html
      appliance page dist/ours-1.1.0 --against /media/old/ours-1.0.0 --out ours-1.1.0.html
      appliance page dist/ours-1.1.0 --draft --signer alice.pub.json --signer bob.pub.json --out draft.html
    """
    from engine import durable
    from engine.errors import InputError
    from installer.cli.options import default_keys
    from installer.evidence import contents, previous, update
    from installer.evidence import page as pages
    from installer.trust import signer as signers
    from installer.trust.keys import KeyStore

    if not out.absolute().parent.is_dir():
        raise InputError("there is no such directory", where=str(out.parent), remedy="Make it first, or correct --out.")
    pinned, _ = pinned_root(root, keys)
    given = {f.public.keyid: f.name for f in map(signers.read_public, signer or [])}
    own = {} if root else KeyStore(keys or default_keys()).files()  # of the builder, whose directory has the root too
    names = {keyid: f.name for keyid, f in own.items()} | given
    new = contents.read(bundle, pinned, draft=draft)
    found = previous.Found(contents.read(against, pinned)) if against else previous.beside(bundle, pinned, new)
    old = found.contents
    step = update.between((old.trusted, old.lock), (new.trusted, new.lock), given=bool(against)) if old else None
    html = pages.render(new, step, refused=found.refused, names=names)
    durable.write(out, html)
    compared = f", against {old.trusted.release}" if old else ", no earlier release to compare with"
    screen_of(ctx).result(
        {
            "page": str(out),
            "size": len(html),
            "changes": None if step is None else len(step.items),
            "against": old.trusted.release if old else None,
            "draft": new.draft,
        },
        f"Wrote {out}, {size(len(html.encode()))}{compared}{'; a draft' if new.draft else ''}",
    )


def _document(change: Change) -> dict[str, Any]:
    sides = {n: a.model_dump(mode="json") if a else None for n, a in (("old", change.old), ("new", change.new))}
    return {"what": change.what, "kind": change.kind, "name": change.name, "fields": list(change.fields), **sides}


def _table(found: list[Change], caption: str):  # type: ignore[no-untyped-def]  # a lazily imported table
    from installer.cli.tables import Table

    table = Table(
        "",
        "kind",
        "name",
        "old",
        "new",
        "licence",
        "size",
        caption=f"{caption}: {len(found)} changes",
    )
    for change in found:
        some = change.new or change.old
        assert some is not None  # noqa: S101  one of the two is there
        licence = (
            f"{change.old.licence or 'unknown'} → {change.new.licence or 'unknown'}"
            if "licence" in change.fields and change.old and change.new
            else ""
        )
        sides = [a.version or a.sha256[:12] if a else "" for a in (change.old, change.new)]
        table.add_row(change.what, change.kind, change.name, *sides, licence, size(some.size))
    return table
