"""`appliance explain`: what a key of a definition or a site means."""

from __future__ import annotations

from typing import Annotated

import typer

from installer.cli.options import screen_of


def explain(
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(help="FILE.KEY.KEY, where FILE is definition or site.", metavar="PATH")],
    recursive: Annotated[
        bool, typer.Option("--recursive", help="All keys below it as a tree, without their descriptions.")
    ] = False,
) -> None:
    """Explain a key of a definition or of a site: type, default, limits and meaning.

    Entries of lists need no word of their own: site.services.model is the model of each service.

    \b
    Examples:
      appliance explain site.gateway
      appliance explain definition.models
      appliance explain site --recursive
    """
    from installer import explainpage
    from installer.explain import explain as explained

    found = explained(path, recursive=recursive)
    screen_of(ctx).result(found.data(), explainpage.lines(found, recursive=recursive))
