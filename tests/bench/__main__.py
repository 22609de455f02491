"""`./run bench`: every performance claim, measured beside its baseline, as JSON lines on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import (
    building,
    importing,
    labs,
    measure,
    operating,
    patching,
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
    if given.table:
        sys.stdout.write(table.render([json.loads(line) for line in sys.stdin]))
        return
    if given.list:
        for name in given.groups or GROUPS:
            sys.stdout.write(f"{name}: {(GROUPS[name].__doc__ or '').strip()}\n")
            sys.stdout.writelines(f"  {table.claim(c)}\n" for c in GROUPS[name].CLAIMS)
        return
    given.work.mkdir(exist_ok=True)
    _print(measure.machine())
    for name in given.groups or GROUPS:
        claims = {c.name: c for c in GROUPS[name].CLAIMS}
        with tempfile.TemporaryDirectory(prefix="appliance-bench-", dir=given.work) as work:
            for pair in GROUPS[name].pairs(Path(work), given.only):
                if given.only in pair.name:
                    _print({"group": name} | measure.compare(claims[pair.name], pair, given.rounds))


def _print(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
