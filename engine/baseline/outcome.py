"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass

PASS, FAIL, WAIVED, NOT_APPLICABLE = "pass", "fail", "waived", "not_applicable"
LONGEST = 600  # characters; a list of a thousand files helps nobody


@dataclass(frozen=True)
class Outcome:
    """``expected`` is empty where ``observed`` says it all."""

    result: str
    observed: str
    expected: str = ""


def passed(observed: str) -> Outcome:
    return Outcome(PASS, _short(observed))


def fail(observed: str, expected: str) -> Outcome:
    return Outcome(FAIL, _short(observed), _short(expected))


def not_applicable(why: str) -> Outcome:
    return Outcome(NOT_APPLICABLE, _short(why))


def of_faults(faults: list[str], good: str, expected: str = "") -> Outcome:
    """Failed with all faults, or passed with what is good."""
    return fail("; ".join(faults), expected) if faults else passed(good)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
