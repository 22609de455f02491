"""What judges of a node that are not ours have in common: counts, and waivers that end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import yaml


@dataclass(frozen=True)
class Judgement:
    """Counts by result, and by name: rules that fail without a waiver, and waived rules that pass."""

    counts: dict[str, int]
    unwaived: list[str]
    stale: list[str]

    @property
    def good(self) -> bool:
        """Whether something passes and nothing fails that is not waived."""
        return bool(self.counts.get("pass")) and not self.unwaived

    def line(self) -> str:
        """Counts and what is not waived, for a person."""
        counts = " ".join(f"{k}={v}" for k, v in sorted(self.counts.items()))
        return f"{counts} unwaived: {' '.join(self.unwaived or ['none'])}"


def waived(text: str, today: date) -> dict[str, str]:
    """Rule to reason of a file of waivers; none once its day is over.

    Raises:
        ValueError: a rule stands there twice, or a reason is missing or too short to be one.
    """
    document = yaml.safe_load(text)
    found: dict[str, str] = {}
    for entry in document["waivers"]:
        if len(entry["reason"]) < 20:
            raise ValueError(f"{entry['rules'][0]}: {entry['reason']!r} is no reason")
        for rule in entry["rules"]:
            if rule in found:
                raise ValueError(f"{rule} is waived twice")
            found[rule] = entry["reason"]
    return found if today <= document["expires"] else {}


def judge(found: Mapping[str, str], waivers: Mapping[str, str]) -> Judgement:
    """What rules say beside the waivers. One that could not be looked at (error, unknown) counts as failed."""
    counts: dict[str, int] = {}
    for result in found.values():
        counts[result] = counts.get(result, 0) + 1
    bad = {rule for rule, result in found.items() if result in ("fail", "error", "unknown")}
    stale = [rule for rule in waivers if found.get(rule) == "pass"]
    return Judgement(counts, sorted(bad - set(waivers)), sorted(stale))
