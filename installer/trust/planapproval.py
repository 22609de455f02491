"""Other people's agreement to a plan: the policy of a depot, and signed statements over one digest.

`plan-keys.json` beside a depot's memory names public keys and how many of their holders must agree to every install. An approval is a DSSE
envelope over the plan's digest and its last day; another plan has another digest.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine import inputfile, strictjson
from engine.errors import InputError, TrustError
from installer.trust import downgrade, envelope
from installer.trust.downgrade import MAX_DAYS, Policy
from installer.trust.signer import KeyFile, Secret

TYPE = "application/vnd.appliance.plan-approval+json"
POLICY = "plan-keys.json"
WHAT = "plans"
MAX_PLAN = 64 << 20  # bytes


class Approval(BaseModel):
    """One person's word for one plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    until: datetime


def policy(directory: Path) -> Policy | None:
    """Who must agree to plans; None when the operator decides alone.

    Raises:
        TrustError: it is damaged.
    """
    return downgrade.policy(directory, POLICY, WHAT)


def require_from_now_on(directory: Path, keys: list[KeyFile], threshold: int) -> Policy:
    """Write the policy of a depot, once.

    Raises:
        InputError: as for a downgrade's.
    """
    return downgrade.require_from_now_on(directory, keys, threshold, POLICY, WHAT)


def digest_of(path: Path) -> str:
    """The digest of a plan that was written to a file; the same as `appliance plan` printed.

    Raises:
        InputError: it is no plan.
    """
    raw = inputfile.read(path, MAX_PLAN, "the plan", "Write it with `appliance plan --out`.")
    try:
        data = strictjson.loads(raw)
    except ValueError as error:
        raise InputError(
            "cannot read the plan", where=str(path), remedy="Write it with `appliance plan --out`."
        ) from error
    if not isinstance(data, dict) or data.get("schema") != 1 or "batches" not in data:
        raise InputError("this is no plan", where=str(path), remedy="Write it with `appliance plan --out`.")
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def approve(digest: str, days: int, out: Path, key: KeyFile, passphrase: str, pin: Secret, now: datetime) -> Approval:
    """Sign a plan's digest and write the approval to ``out``."""
    until = (now + timedelta(days=min(days, MAX_DAYS))).replace(microsecond=0)
    made = Approval(schema=1, digest=digest, until=until)
    envelope.seal(made.model_dump_json(by_alias=True), TYPE, out, key, passphrase, pin)
    return made


def judge(directory: Path, digest: str, approvals: tuple[Path, ...]) -> list[str]:
    """Who agreed to the plan, for the record; empty when this depot asks nobody but the operator.

    Raises:
        TrustError: fewer than the policy wants, or an approval that is forged, late or for another plan.
    """
    asked = policy(directory)
    if asked is None:
        return []
    agreed = set()
    for path in approvals:
        who, payload = downgrade.opened(path, asked, TYPE)
        try:
            said = Approval.model_validate(strictjson.loads(payload))
        except ValueError as error:
            raise _refused(path, "what is signed is no approval of a plan") from error
        if said.digest != digest:
            raise _refused(path, f"it is for the plan sha256:{said.digest}")
        if said.until.tzinfo is None or said.until < datetime.now(UTC):
            raise _refused(path, f"it ended {said.until:%Y-%m-%d %H:%M} UTC")
        agreed.add(who.name)
    if len(agreed) < asked.threshold:
        raise TrustError(
            f"{asked.threshold} of {', '.join(k.name for k in asked.keys)} must agree to a plan here, {len(agreed)} did",
            where=str(directory / POLICY),
            remedy="Give them what `appliance plan --out` writes, ask for `appliance approve-plan`, and give the files with --approval.",
        )
    return sorted(agreed)


def _refused(path: Path, why: str) -> TrustError:
    return TrustError(
        f"this does not approve the plan: {why}", where=str(path), remedy="Ask for a new approval of exactly this plan."
    )
