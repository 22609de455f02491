"""Hold an install to a plan that people have seen, and have agreed to where the depot asks for that."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import InputError, TrustError
from engine.report import Report
from installer.site.events import Listener
from installer.site.install import Request
from installer.site.plan import differences
from installer.trust import planapproval


def require(request: Request, report: Report, listener: Listener) -> tuple[str, list[str]]:
    """Make the plan again and compare; returns its digest and who agreed. Empty when neither operator nor depot asks for a plan.

    Raises:
        InputError: the depot asks for a plan and none is named, or what would be done is not what was planned.
        TrustError: too few agreed.
    """
    from installer.site import planning  # noqa: PLC0415  most installs have no plan

    asked = planapproval.policy(request.depot.root / "trust")
    if not request.plan:
        if asked is not None and not request.check:
            raise InputError(
                "this depot installs nothing without an agreed plan",
                where=str(request.depot.root),
                remedy="Make one with `appliance plan --out`, have it approved, and give --plan DIGEST and --plan-approval FILE.",
            )
        return "", []
    made = planning.make(replace(request, check=True, diff=True, plan=""), report, listener)
    if why := differences(made, request.plan):
        raise TrustError(
            f"{why}; nothing was done",
            where="--plan",
            remedy="Something moved since it was made: the release, the inventory, this product or a node. Make the plan again and review it.",
        )
    return made.digest, planapproval.judge(request.depot.root / "trust", made.digest, request.plan_approvals)
