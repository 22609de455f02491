"""`./run bench`: every performance claim, measured beside its baseline, as JSON lines on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.bench import carrying, measure, patching, starting, verifying
from tests.demo import TREE

GROUPS = {"start": starting, "verify": verifying, "carry": carrying, "patch": patching}


def main() -> None:
    """Run the groups that were asked for; a missed target is reported, never hidden, and does not fail the run."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="what to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a side, at least 5 for a claim (default: 5)")
    parser.add_argument("--work", type=Path, default=TREE / "build", help="a directory on the disk to measure on")
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    _print(measure.machine())
    for name in given.groups or GROUPS:
        with tempfile.TemporaryDirectory(prefix="appliance-bench-", dir=given.work) as work:
            for case in GROUPS[name].cases(Path(work)):
                _print(measure.compare(case, given.rounds))


def _print(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
