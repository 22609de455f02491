"""Where the program starts: what people and scripts ask most is answered before anything heavy is imported.

The libraries behind the commands take some 40 ms to import, four times what the interpreter itself needs. The top-level help is
therefore kept as text beside this file (`./run docs` writes it, a test compares it with what the commands say), and a
light command may answer by itself. Whatever this module does not know goes to installer.cli.main, which knows everything.
"""

from __future__ import annotations

import os
import sys

# Columns that the help is kept for: pipes and plain terminals, and all that are wider than the widest help.
WIDTHS = (80, 110)


def main() -> None:
    """The console script `appliance`."""
    argv = sys.argv[1:]
    if (text := ready(argv)) is None:
        _command(argv)
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        sys.exit(1)


def _command(argv: list[str]) -> None:
    from installer.cli import light

    if path := light.inventory(argv):
        from pathlib import Path

        from installer.site import ansiblelist

        ansiblelist.begin(Path(path))  # it takes as long as what is loaded meanwhile
    if (asked := light.verify(argv)) is None:
        from installer.cli.main import main as run

        run(argv)
        return
    from pathlib import Path

    from installer.cli import checking, ending
    from installer.cli.screen import Screen

    bundle, root = map(Path, asked)
    screen = Screen(json_output="--json" in argv, quiet=not {"--quiet", "-q"}.isdisjoint(argv))
    ending.run(screen, lambda: checking.check(screen, bundle, *checking.read_pinned([root]), None))


def ready(argv: list[str]) -> str | None:
    """The answer to ``argv`` where it is known without the command line being built, else None."""
    if argv == ["--version"]:
        from installer import __version__

        return f"appliance {__version__}\n"
    if argv in (["--help"], ["-h"]) and (width := min(columns(), WIDTHS[-1])) in WIDTHS:
        with open(help_file(width), encoding="utf-8") as file:
            return file.read()
    if argv and not os.environ.get("_APPLIANCE_COMPLETE"):
        from installer.cli import light

        return light.answer(argv)
    return None


def help_file(width: int) -> str:
    """Where the top-level help for a terminal of ``width`` columns is kept."""
    return os.path.join(os.path.dirname(__file__), f"help-{width}.txt")


def columns() -> int:
    """Width of the terminal as the commands' own help sees it (shutil.get_terminal_size, which takes 6 ms to import)."""
    try:
        told = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        told = 0
    if told > 0:
        return told
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 80


if __name__ == "__main__":
    main()
