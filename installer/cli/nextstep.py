"""The command that follows a command, with the paths that were given. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

Word = str | Path


def command(*words: Word) -> str:
    """An ``appliance`` command line that a shell takes as it is. What the reader has to fill in is in CAPITALS."""
    return shlex.join(["appliance", *map(str, words)])


def given(option: str, value: Path | str | None, default: Path | str | None = None) -> tuple[Word, ...]:
    """An option of the command line, for the next one: empty where it has its default."""
    return () if not value or value == default else (option, value)


def after_verify(bundle: Path, root: str, builders: Iterable[Path], default_depot: Path, *, partial: bool) -> list[str]:
    """What may follow a bundle that is good; several where it depends on what the reader wants.

    Args:
        root: the file that its root of trust was read from.
        builders: directories of signing keys; with their root the check was made where bundles are built.
        default_depot: whose root needs not be named.
        partial: a volume or a delta, which only an import makes whole.
    """
    pinned = given("--root", root, str(default_depot / "root.json"))
    if partial:
        return [command("import", *pinned, bundle)]
    for keys in builders:
        if Path(root) == keys / "root.json":
            return [
                f"{command('kit', bundle, '--out', 'DIRECTORY')} for the first bundle of a site",
                "carry the bundle to a site that has the kit",
            ]
    return [
        f"{command('preflight', '-i', 'SITE', *pinned, bundle)} to see whether the nodes are fit",
        f"{command('install', '-i', 'SITE', *pinned, bundle, '--check')} to see what would change",
    ]
