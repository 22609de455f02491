"""`appliance-engine baseline`: how this node stands, control by control."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from engine.baseline import policy
from engine.baseline.judge import counts, judge, passed
from engine.errors import Exit, InputError
from engine.report import printable


def main(argv: list[str]) -> int:
    """Print every control; exit 0 when nothing that is enforced fails, else 1."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine baseline",
        description="Compare what is in force on this node with its baseline. Changes nothing; needs root to see all.",
    )
    parser.add_argument("--policy", type=Path, default=policy.FILE, help="file that the role os_baseline wrote")
    parser.add_argument(
        "--only", action="append", default=[], metavar="CONTROL", help="look at this control; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    found = policy.load(options.policy)
    if unknown := sorted(set(options.only) - {c.id for c in found.controls}):
        raise InputError(
            f"{unknown[0]} is no control of this node",
            where=str(options.policy),
            remedy="docs/baseline.md lists the ids.",
        )
    if options.only:
        found = policy.Policy(tuple(c for c in found.controls if c.id in options.only), found.waivers)
    verdicts = list(judge(found, datetime.now(UTC).date()))
    good = passed(verdicts)
    if options.json:
        document = {"good": good, "counts": counts(verdicts), "controls": [asdict(v) for v in verdicts]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for v in verdicts:
            word = v.result if v.enforced else f"({v.result})"
            sys.stdout.write(f"{word:<16} {v.control:<24} {printable(v.observed, '')}\n")
        sys.stdout.write(
            f"{'good' if good else 'NOT GOOD'}: {', '.join(f'{n} {r}' for r, n in counts(verdicts).items())}\n"
        )
    return int(Exit.OK if good else Exit.FAILED)
