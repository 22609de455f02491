"""docs/cli.md, generated from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from installer.cli.main import app

HEAD = """# Commands

Made by `./run docs` from the commands themselves.

Every command takes `--json` (one JSON document on standard output) and `--quiet`, anywhere on the line. Progress and remarks go to standard error.
`appliance --install-completion` sets up shell completion.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | tried and failed; `lock --check`: the lock would change; `preflight`: something can be fixed |
| 2 | wrong input: an option, definition, inventory or key; `preflight`: a node is not supported |
| 3 | refused as untrusted: a signature, hash, version or expiry |
| 4 | a source changed or does not answer |
| 5 | a node failed or cannot be reached |
| 6 | this machine lacks something: space, a permission, a tool |
| 7 | `install`: done but for nodes that wait for their maintenance window; the same command in the window completes it |
| 129 | ended by SIGHUP (the terminal closed); the same command continues |
| 130 | interrupted with Ctrl-C (SIGINT); the same command continues |
| 143 | ended by SIGTERM; the same command continues |

A signal ends the processes that a command started, and removes its temporary files, before it exits. What is ignored stays so: under `nohup`, SIGHUP ends nothing.
"""


def render() -> str:
    """The whole reference as Markdown."""
    command = get_command(app)
    return HEAD + "".join(_pages(command, typer.Context(command, info_name="appliance")))


def _pages(command: Any, context: typer.Context) -> Iterator[str]:
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            yield from _pages(
                sub, typer.Context(sub, info_name=name, parent=context, terminal_width=100, max_content_width=100)
            )
        return
    command.epilog = None
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201
