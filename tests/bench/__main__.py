"""`./run bench`: every performance claim, measured beside its baseline, as JSON lines on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ApplianceError, Exit
from installer.cli import streams
from installer.cli.screen import Screen
from tests.bench import (
    building,
    gateway,
    importing,
    labs,
    measure,
    operating,
    patching,
    placing,
    relaying,
    rotating,
    runtimes,
    scaling,
    table,
    verifying,
    wheels,
)
from tests.demo import TREE

GROUPS = {
    "verify": verifying,
    "import": importing,
    "build": building,
    "scale": scaling,
    "wheels": wheels,
    "runtime": runtimes,
    "patch": patching,
    "operations": operating,
    "rotate": rotating,
    "relay": relaying,
    "lab": labs,
    "gateway": gateway,
    "gpu": placing,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the groups that were asked for; a missed target is reported, never hidden, and does not fail the run."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"what to measure: {', '.join(GROUPS)} (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="say what each group claims, and measure nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="only claims with this in their name")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a side, at least 5 for a claim (default: 5)")
    parser.add_argument("--work", type=Path, default=TREE / "build", help="a directory on the disk to measure on")
    parser.add_argument(
        "--table", action="store_true", help="turn JSON lines on standard input into the table of the docs"
    )
    given = parser.parse_args(argv)
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    chosen = {
        name: [c for c in GROUPS[name].CLAIMS if given.only in c.name] for name in dict.fromkeys(given.groups or GROUPS)
    }
    if not any(chosen.values()):
        where = f" in {', '.join(chosen)}" if given.groups else ""
        parser.error(f"nothing is called {given.only}{where}; --list names every claim")
    if given.table:
        _write(table.render([json.loads(line) for line in sys.stdin]))
        return
    if given.list:
        for name, listed in chosen.items():
            if listed:
                _write(f"{name}: {(GROUPS[name].__doc__ or '').strip()}\n")
                _write("".join(f"  {table.claim(c)}\n" for c in listed))
        return
    given.work.mkdir(exist_ok=True)
    _print(measure.machine())
    for name, wanted in chosen.items():
        if not wanted:
            continue  # a group may prepare for minutes before its first claim
        claims = {c.name: c for c in wanted}
        with tempfile.TemporaryDirectory(prefix="appliance-bench-", dir=given.work) as work:
            for pair in GROUPS[name].pairs(Path(work), given.only):
                if pair.name in claims:
                    _print({"group": name} | measure.compare(claims[pair.name], pair, given.rounds))


def _print(line: dict[str, object]) -> None:
    _write(json.dumps(line, ensure_ascii=False) + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough; only here, for in what is measured it would be a fault
        streams.abandon()
        raise SystemExit(Exit.FAILED) from None


def program() -> None:
    """As a person starts it: what is missing here is said in a sentence."""
    try:
        main()
    except ApplianceError as error:
        Screen().error(error)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    program()
