"""How long each part of the tests takes, against what was recorded last: the order they begin in, and the table they end with.

A part is what one process runs in a row: a module, or one scenario of a role. `./run test --record` writes what it measured to
tests/seconds.json. The seconds are of a whole run on two cores with all its processes; they are never part of a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

RECORD = Path(__file__).with_name("seconds.json")
SCENARIOS = "tests/roles/test_molecule.py"
# These begin, so that a slip of the pen shows within minutes; all other parts follow, the longest first.
QUICK = ("tests/unit/", "tests/fuzz/")
ON_NODES = ("tests/e2e/", "tests/roles/")
# Of a part that no run has recorded: what boots nodes takes minutes.
UNKNOWN_S = 60.0
UNKNOWN_ON_NODES_S = 300.0
SHOWN_S = 5.0  # parts that take less, and took less, are one line


def part_of(nodeid: str) -> str:
    """The part that a test belongs to."""
    module = nodeid.partition("::")[0]
    return nodeid if module == SCENARIOS else module


def recorded(path: Path = RECORD) -> dict[str, float]:
    """Seconds by part, of the last run that was recorded; empty when there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def turn(nodeid: str, before: Mapping[str, float]) -> tuple[int, float, str]:
    """A sort key: quick parts in their own order, then the longest, so that no process is left alone with a long one at the end."""
    part = part_of(nodeid)
    if part.startswith(QUICK):
        return 0, 0.0, part
    unknown = UNKNOWN_ON_NODES_S if part.startswith(ON_NODES) else UNKNOWN_S
    return 1, -before.get(part, unknown), part


def by_part(tests: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part, of seconds by test."""
    parts: dict[str, float] = {}
    for nodeid, seconds in tests.items():
        parts[part_of(nodeid)] = parts.get(part_of(nodeid), 0.0) + seconds
    return parts


def table(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """Lines for people: seconds of each part now and as recorded, the longest first."""
    shown = [p for p in now if max(now[p], before.get(p, 0.0)) >= SHOWN_S]
    lines = [f"{'now':>6} {'before':>6} {'change':>7}  seconds by part"]
    lines += [_line(now[p], before.get(p), _short(p)) for p in sorted(shown, key=lambda p: -now[p])]
    rest = [p for p in now if p not in shown]
    if rest:
        lines.append(_line(sum(now[p] for p in rest), sum(before.get(p, 0.0) for p in rest), f"{len(rest)} others"))
    lines.append(_line(sum(now.values()), sum(before.get(p, 0.0) for p in now), "all, added up over the processes"))
    return lines


def written(now: Mapping[str, float], before: Mapping[str, float]) -> str:
    """The record after a run: its parts anew, all others as they were; one line each, so that a change is easy to review."""
    merged = {**before, **{p: round(s, 1) for p, s in now.items()}}
    return json.dumps(dict(sorted(merged.items())), indent=0) + "\n"


def _line(now: float, before: float | None, name: str) -> str:
    if before is None:
        return f"{now:6.0f} {'new':>6} {'':>7}  {name}"
    return f"{now:6.0f} {before:6.0f} {now - before:+7.0f}  {name}"


def _short(part: str) -> str:
    return part.partition("[")[2].rstrip("]") + " (scenario)" if "[" in part else part
