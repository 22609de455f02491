"""`appliance model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from installer.cli.options import screen_of

app = typer.Typer(help="Look at models before they cross the gap.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def demo(ctx: typer.Context, directory: Annotated[Path, typer.Argument(help="Directory to make.")]) -> None:
    """Make a tiny real model.

    Example: appliance model demo build/demo/tiny
    """
    from installer.tinymodel import make

    make(directory)
    screen_of(ctx).result({"model": str(directory)}, f"Made {directory}")
