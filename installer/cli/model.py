"""`appliance model`: look at a model before it crosses the gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import Exit
from installer.cli.options import screen_of
from installer.cli.screen import counted, size

if TYPE_CHECKING:
    from installer.cli.tables import Table
    from installer.intake import Verdict

app = typer.Typer(help="Look at a model before it crosses the gap.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Model folder.")],
    licence: Annotated[str, typer.Option(help="SPDX expression, as `licence` of a definition would say.")] = "",
) -> None:
    """Say what the model intake takes, leaves out and refuses; exit with 3 when it refuses anything.

    Example: appliance model check models/llama
    """
    from engine.errors import InputError
    from installer import intake
    from installer.evidence import spdx
    from installer.modelfolder import Folder

    screen = screen_of(ctx)
    folder = Folder(directory)
    if wrong := spdx.fault(licence):
        raise InputError(
            f"{licence!r} is {wrong}", where="--licence", remedy="Write it as https://spdx.org/licenses has it."
        )
    verdict = intake.examine(folder.entries, folder.read, licence=licence)
    screen.result(_document(folder.where, verdict), _table(verdict))
    if verdict.refused:
        screen.say(f"refused: {folder.where}\n{intake.remedy(verdict.refused)}")
        raise typer.Exit(Exit.UNTRUSTED)
    screen.say(f"may cross: {folder.where}, licence {verdict.licence}")


def _document(directory: str, verdict: Verdict) -> dict[str, Any]:
    from installer import intake

    return {
        "directory": directory,
        "licence": verdict.licence,
        "accepted": not verdict.refused,
        "files": [{"path": e.path, "size": e.size} for e in verdict.taken],
        "left_out": list(verdict.left_out),
        "refused": [{"rule": f.rule, "path": f.path, "reason": f.reason} for f in verdict.refused],
        "advice": [{"rule": f.rule, "reason": f.reason} for f in verdict.advice],
        "remedy": intake.remedy(verdict.refused) if verdict.refused else "",
    }


def _table(verdict: Verdict) -> Table:
    """One line a file, one a finding; findings first, for they are what must be read."""
    from installer.cli.tables import Table

    table = Table("outcome", "file", "size", "rule", "reason")
    broken = {f.path for f in verdict.refused}
    for finding in verdict.refused:
        table.add_row("refused", finding.path or "the model", "", finding.rule, finding.reason)
    for finding in verdict.advice:
        table.add_row("warning", "the model", "", finding.rule, finding.reason)
    for entry in verdict.taken:
        if entry.path not in broken:
            table.add_row("takes", entry.path, size(entry.size), "", "")
    for path in verdict.left_out:
        table.add_row("leaves out", path, "", "", "not of a type that may cross")
    return table


@app.command()
def demo(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Directory to write, new or empty.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Make a tiny real model, for trying everything out.

    Example: appliance model demo build/demo/tiny
    """
    from installer.tinymodel import make

    make(directory, seed=seed)
    where = directory.resolve()
    files = {p.name: p.stat().st_size for p in sorted(where.iterdir())}
    screen_of(ctx).result(
        {"directory": str(where), "files": files},
        f"{where}: {counted(len(files), 'file')}, {size(sum(files.values()))}",
    )
