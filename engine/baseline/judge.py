"""One pass over the controls of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from engine.baseline import accounts, files, integrity, kernel, services, ssh, sudo
from engine.baseline.outcome import FAIL, PASS, WAIVED, Outcome, fail
from engine.baseline.policy import Control, Policy
from engine.errors import ApplianceError

Check = Callable[[Mapping[str, Any]], Outcome]

CHECKS: Mapping[str, Check] = {
    **kernel.CHECKS, **files.CHECKS, **accounts.CHECKS, **services.CHECKS, **integrity.CHECKS, **ssh.CHECKS, **sudo.CHECKS,
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """How one control stands. ``observed`` is what was seen, in words a person can compare with ``expected``."""

    control: str
    title: str
    result: str
    observed: str
    expected: str
    enforced: bool
    reboot: bool


def judge(policy: Policy, today: date) -> Iterator[Verdict]:
    """Every control in the order of the policy."""
    files.scan.cache_clear()
    for control in policy.controls:
        outcome = _outcome(policy, control, today)
        yield Verdict(
            control.id,
            control.title,
            outcome.result,
            outcome.observed,
            outcome.expected,
            control.enforced,
            control.reboot,
        )


def _outcome(policy: Policy, control: Control, today: date) -> Outcome:
    waiver = policy.waivers.get(control.id)
    if waiver and waiver.expires >= today:
        return Outcome(WAIVED, f"{waiver.reason} ({waiver.reviewer}, until {waiver.expires})")
    outcome = look(control)
    if waiver and outcome.result == FAIL:
        return fail(f"{outcome.observed}; its waiver expired on {waiver.expires}", outcome.expected)
    return outcome


def look(control: Control) -> Outcome:
    """What is in force. A check that cannot look has not passed."""
    check = CHECKS.get(control.check)
    if check is None:
        return fail(f"this engine knows no check {control.check}", "an engine of the role's release")
    try:
        return check(control.want)
    except (ApplianceError, OSError, ValueError, KeyError, TypeError) as error:
        return fail(f"could not be looked at: {error}", "")


def passed(verdicts: list[Verdict]) -> bool:
    """Whether nothing that is enforced fails."""
    return not any(v.result == FAIL and v.enforced for v in verdicts)


def counts(verdicts: list[Verdict]) -> dict[str, int]:
    """Number of controls by result."""
    results = [v.result for v in verdicts]
    return {result: results.count(result) for result in (PASS, FAIL, WAIVED, "not_applicable")}
