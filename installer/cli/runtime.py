"""`appliance runtime`: the images that nodes mount."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.bundle import BundleDir, pinned_root
from installer.cli.options import Cache, screen_of
from installer.cli.screen import counted, size

app = typer.Typer(
    help="Look into the runtime images of a bundle.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def audit(
    ctx: typer.Context,
    bundle: BundleDir,
    cache: Cache,
    root: Annotated[Path | None, typer.Option("--root", help="Pinned root of trust (root.json).")] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")
    ] = None,
) -> None:
    """Prove that every runtime image holds what the wheels and packages beside it hold, and nothing else.

    Lays out the bundle's own wheels and interpreter packages, unpacks the image, and compares both file by file, bytecode
    included. Takes a minute or two, and room for two unpacked runtimes below --cache. Exit code 3 when they differ.

    \b
    Examples:
      appliance runtime audit dist/demo-1.0.0
      appliance runtime audit /media/drive/demo-1.0.0 --root root.json --cache /var/tmp/audit
    """
    from dataclasses import asdict

    from engine.errors import TrustError
    from installer.runtime import audit as auditing

    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    with screen:
        audits = auditing.of_bundle(bundle, pinned, cache, screen)
    screen.result(
        {"bundle": str(bundle), "good": all(a.good for a in audits), "images": [asdict(a) for a in audits]},
        "\n".join(
            f"{a.name}: {counted(a.files, 'file')}; {'the same as in its wheels and packages' if a.good else f'{len(a.differences)} differ'} ({size(a.size)})"
            for a in audits
        )
        or "The bundle has no runtime image.",
    )
    for one in audits:
        for difference in one.differences[:20]:
            screen.say(f"{one.name}: {difference.path} {difference.what}")
    if bad := [a.name for a in audits if not a.good]:
        raise TrustError(
            f"{', '.join(bad)}: the image is not made of the wheels beside it",
            where=str(bundle),
            remedy="Do not mount it. Install from wheels (runtime_form: wheels), and ask the builder.",
        )
