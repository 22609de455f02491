"""`appliance`: the command line."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer
from typer._click.exceptions import (
    ClickException,
    NoArgsIsHelpError,  # typer 0.29 carries its own click and shows it nowhere else; the pin guards this
)
from typer.main import get_command

import installer
from engine.errors import Exit, InputError
from installer.cli import ending
from installer.cli.commands import EPILOG, Commands
from installer.cli.screen import Screen

app = typer.Typer(
    name="appliance",
    cls=Commands,
    help="Carry a zero-trust LLM inference service across an air gap: one signed bundle, one install.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(ctx: typer.Context, value: bool) -> None:
    if value:
        screen = Screen(json_output=bool(ctx.params.get("json_output")))
        screen.result({"version": installer.__version__}, f"appliance {installer.__version__}")
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    json_output: Annotated[
        # Eager, as --version is: it stands first on the line, so --version knows of it.
        bool, typer.Option("--json", is_eager=True, help="Print one JSON document instead of text.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    ctx.obj = Screen(json_output=json_output, quiet=quiet)


def _global_options_first(argv: list[str]) -> list[str]:
    """Let --json and --quiet stand anywhere before a ``--``: people type them last."""
    end = argv.index("--") if "--" in argv else len(argv)
    moved = [a for a in argv[:end] if a in ("--json", "--quiet", "-q")]
    return [*moved, *(a for a in argv[:end] if a not in moved), *argv[end:]]


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its code; every failure ends in one message."""
    args = _global_options_first(sys.argv[1:] if argv is None else argv)
    # What comes after a ``--`` is an operand, whatever it looks like.
    given = args[: args.index("--")] if "--" in args else args
    screen = Screen(json_output="--json" in given, quiet="--quiet" in given or "-q" in given)
    ending.run(screen, lambda: _command(args, screen))


def _command(args: list[str], screen: Screen) -> int:
    try:
        code = get_command(app)(args=args, prog_name="appliance", standalone_mode=False)
    except ClickException as error:
        if screen.json_output:
            raise _wrong_use(error) from error
        with contextlib.suppress(OSError):  # where standard error takes no more, the exit code remains
            error.show()
        return Exit.USAGE
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    if code == Exit.INTERRUPTED:  # what typer makes of Ctrl-C, without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _wrong_use(error: ClickException) -> InputError:
    """A wrong command line as the error that --json prints."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "appliance"
    # Without any argument a group answers with its help, which is no sentence of what is wrong.
    bare = isinstance(error, NoArgsIsHelpError)
    what = "Missing command" if bare else error.format_message().removesuffix(".")
    return InputError(what, where=command, remedy=f"`{command} --help` says what it takes.")


if __name__ == "__main__":
    main()
