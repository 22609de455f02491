"""Commands that scripts ask often and that need no library: answered without building the command line.

Each is also a full command with the same words; a test holds the two answers together. Whatever is not exactly understood here
(an unknown option, a missing value, an error) is left to the full command, whose messages are better.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from engine.printable import printable
from installer.releases import releases

DEPOT = "/var/lib/appliance/depot"  # as installer.cli.options.DEFAULT_DEPOT
GLOBAL = ("--json", "--quiet", "-q")
ASKING = ("install", "plan", "preflight", "rollback", "status")  # commands that begin with the inventory


def answer(argv: list[str]) -> str | None:
    """What the command prints, or None where the full command must be asked."""
    words = [a for a in argv if a not in GLOBAL]
    if words[:2] == ["status", "--offline"]:
        return _status(words[2:], "--json" in argv)
    for name, command in COMMANDS.items():
        if tuple(words[: len(name)]) == name and (depot := _depot(words[len(name) :])):
            try:
                return command(depot, "--json" in argv)
            except OSError:
                return None
    return None


def verify(argv: list[str]) -> tuple[str, str] | None:
    """Bundle and root of a plain `verify BUNDLE --root ROOT`, which then starts without the command line's libraries."""
    match [a for a in argv if a not in GLOBAL]:
        case ["verify", "--root", root, bundle] | ["verify", bundle, "--root", root]:
            plain = root and bundle and not root.startswith("-") and not bundle.startswith("-")
            return (bundle, root) if plain else None
    return None


def inventory(argv: list[str]) -> str:
    """The inventory that a command will ask Ansible for, so that it can be asked at once; empty where there is none."""
    words = [a for a in argv if a not in GLOBAL]
    if not words or words[0] not in ASKING or not {"-h", "--help", "--offline"}.isdisjoint(words):
        return ""
    for word, following in zip(words[1:], [*words[2:], ""], strict=True):
        if word in ("-i", "--inventory"):
            return following
        if word.startswith("--inventory="):
            return word.partition("=")[2]
    return ""


def _depot(options: list[str]) -> str:
    """The depot asked for; empty where there is any other option."""
    if not options:
        return DEPOT
    if len(options) == 2 and options[0] == "--depot" and os.path.normpath(options[1]) == options[1]:
        return options[1] if not options[1].startswith("-") else ""
    return ""


def _depot_list(depot: str, json_output: bool) -> str:
    names = releases(depot)
    if not json_output:
        return printable("\n".join(names) or "the depot is empty") + "\n"
    import json

    return json.dumps({"depot": depot, "releases": names}, indent=2, sort_keys=True) + "\n"


def _status(options: list[str], json_output: bool) -> str | None:
    """`status --offline` while all is well; what is wrong has an exit code, which the full command knows."""
    places = {"--depot": "", "--ca": "", "--runs": ""}
    if len(options) % 2 or any(
        name not in places or not value or value.startswith("-") for name, value in _pairs(options)
    ):
        return None
    places.update(_pairs(options))
    if any(value and os.path.normpath(value) != value for value in places.values()):
        return None
    from installer.site import records

    known = records.control(
        places["--depot"] or records.DEPOT, places["--ca"] or records.CA, places["--runs"] or records.RUNS
    )
    if any(severity == "fail" for severity, _, _ in records.findings(known)):
        return None
    if not json_output:
        return printable("\n".join(records.lines(known))) + "\n"
    import json

    return json.dumps({"control": known}, indent=2, sort_keys=True) + "\n"


def _pairs(options: list[str]) -> list[tuple[str, str]]:
    return list(zip(options[::2], options[1::2], strict=False))


COMMANDS: dict[tuple[str, ...], Callable[[str, bool], str]] = {("depot", "list"): _depot_list}
