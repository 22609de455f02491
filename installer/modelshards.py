"""Weights in several files: names that say `2 of 3` say what else must be there. Pure rules over names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set

SHARD = re.compile(r"^(?P<stem>.*?)(?<!\d)(?P<number>\d{1,9})-of-(?P<total>\d{1,9})\.safetensors$", re.IGNORECASE)
SHOWN = 5  # missing shards that a message names; a download that broke off early misses hundreds


def faults(paths: Iterable[str], left_behind: Set[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) for every set of shards that is not whole; sets are judged by directory and prefix.

    Numbers begin at 1, or at 0 where a shard 0 is there. Nothing else than names counts: an index is judged elsewhere, and a
    server reads what lies in the folder whether there is one or not.

    Args:
        paths: weights that are taken.
        left_behind: weights that `include` leaves out.
    """
    sets: dict[str, list[tuple[str, int, int]]] = {}
    for path in sorted(paths):
        if match := SHARD.match(path):
            sets.setdefault(match["stem"], []).append((path, int(match["number"]), int(match["total"])))
    for shards in sets.values():
        first = shards[0][0]
        totals = sorted({total for _, _, total in shards})
        if len(totals) > 1:
            yield first, f"beside it are shards of sets of {' and of '.join(map(str, totals))}: which belong together?"
            continue
        total = totals[0]
        by_number: dict[int, str] = {}
        for path, number, _ in shards:
            if (other := by_number.setdefault(number, path)) != path:
                yield path, f"it is shard {number} of {total}, and so is {other}"
        lowest = 0 if 0 in by_number else 1
        highest = lowest + total - 1
        if beyond := sorted(n for n in by_number if n > highest):
            yield by_number[beyond[0]], f"it is number {beyond[0]} of a set that ends at {highest}"
        elif len(by_number) < total:
            missing = _few(range(lowest, highest + 1), by_number.keys())
            more = total - len(by_number) - len(missing)
            told = ", ".join(map(str, missing)) + (f" and {more} more" if more else "")
            verb = "is" if total - len(by_number) == 1 else "are"
            cause = "; include leaves shards of this set out" if any(_same_set(p, first) for p in left_behind) else ""
            yield first, f"it is one of {total} shards, of which {told} {verb} missing{cause}"


def _few(wanted: range, there: Set[int]) -> list[int]:
    """The first missing numbers. The loop is short whatever total a name claims: it stops at the last shard that is there."""
    found: list[int] = []
    for number in wanted:
        if number not in there:
            found.append(number)
            if len(found) == SHOWN:
                break
    return found


def _same_set(one: str, other: str) -> bool:
    a, b = SHARD.match(one), SHARD.match(other)
    return bool(a and b and a["stem"] == b["stem"])
