"""A second person for going back: the policy of a depot, and the statements that others sign for one downgrade.

`downgrade-keys.json` beside a depot's memory names public keys and how many of their holders must agree. An approval is
a DSSE envelope over one step (release, version now, version then, reason, last day), so it fits no other step, and
the record of overrides makes it good for one time only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key

from engine import durable, inputfile, strictjson
from engine.errors import InputError, TrustError
from engine.memory import MIN_REASON, Downgrade
from installer.trust import envelope
from installer.trust.signer import KeyFile, Secret

TYPE = "application/vnd.appliance.downgrade-approval+json"
POLICY = "downgrade-keys.json"
MAX_APPROVAL = 64 << 10  # bytes
MAX_APPROVALS = 64
MAX_DAYS = 90


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecondKey(_Frozen):
    """One person who may agree; ``key`` is the public half as TUF writes it."""

    name: str
    keyid: Annotated[str, Field(min_length=1, max_length=1024)]
    key: dict[str, Any]


class Policy(_Frozen):
    """How many of whom must agree."""

    schema_version: Literal[1] = Field(1, alias="schema")
    threshold: Annotated[int, Field(ge=1)]
    keys: Annotated[tuple[SecondKey, ...], Field(min_length=1)]


class Approval(_Frozen):
    """One person's word for one step back. ``until`` is when it ends; ``nonce`` tells two of the same step apart."""

    schema_version: Literal[1] = Field(1, alias="schema")
    release: str
    before: int
    after: int
    reason: Annotated[str, Field(min_length=MIN_REASON, max_length=2000)]
    until: datetime
    nonce: str


def policy(directory: Path, name: str = POLICY, what: str = "a downgrade") -> Policy | None:
    """The policy ``name`` beside the memory in ``directory``; None when there is none.

    Args:
        what: that others must agree to, for the message.

    Raises:
        TrustError: it is damaged; guessing would undo what it is for.
    """
    path = directory / name
    try:
        return Policy.model_validate(strictjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # pydantic's ValidationError is one
        raise TrustError(
            f"cannot read who must agree to {what}", where=str(path), remedy="Put the file back from a backup."
        ) from error


def require_from_now_on(
    directory: Path, keys: list[KeyFile], threshold: int, name: str = POLICY, what: str = "a downgrade"
) -> Policy:
    """Write the policy ``name`` of a depot, once.

    Raises:
        InputError: there is one already, a key stands twice, or more must agree than there are keys.
    """
    if (directory / name).exists():
        raise InputError(
            f"who must agree to {what} is settled already",
            where=str(directory / name),
            remedy="To change it, the administrator of this host removes that file, and says so in the change record.",
        )
    if len({k.public.keyid for k in keys}) != len(keys) or not 1 <= threshold <= len(keys):
        raise InputError(
            f"{threshold} of {len(keys)} different keys cannot be required",
            remedy="Give every key once, and a threshold no larger than their number.",
        )
    told = [SecondKey(name=k.name, keyid=k.public.keyid, key=k.public.to_dict()) for k in keys]
    made = Policy(schema=1, threshold=threshold, keys=tuple(told))
    durable.write(directory / name, made.model_dump_json(by_alias=True, indent=1) + "\n")
    return made


def approve(
    step: Downgrade, reason: str, days: int, out: Path, key: KeyFile, passphrase: str, pin: Secret, now: datetime
) -> Approval:
    """Sign one step back and write the approval to ``out``.

    Raises:
        InputError: the step does not lead back, or the reason is too short or too long.
    """
    if not 0 < step.after < step.before:
        raise InputError(
            "this is no step back", remedy="Give the versions as the refusal on the control host prints them."
        )
    until = (now + timedelta(days=min(days, MAX_DAYS))).replace(microsecond=0)
    try:
        made = Approval(
            schema=1, release=step.release, before=step.before, after=step.after, reason=reason.strip(),
            until=until, nonce=secrets.token_hex(8),
        )  # fmt: skip
    except ValidationError as error:
        raise InputError(
            "the reason is too short or too long", remedy="Say in a few words why older is meant."
        ) from error
    envelope.seal(made.model_dump_json(by_alias=True), TYPE, out, key, passphrase, pin)
    return made


def judge(directory: Path, step: Downgrade, approvals: tuple[Path, ...]) -> list[dict[str, str]]:
    """Who agreed to ``step``, for the record; empty when this depot asks nobody but the operator.

    Raises:
        TrustError: fewer than the policy wants, or an approval that is forged, for another step, late or used.
    """
    asked = policy(directory)
    if asked is None:
        return []
    now, used, agreed = datetime.now(UTC), _used(directory), {}
    for path in approvals[:MAX_APPROVALS]:
        who, said, digest = _read(path, asked)
        if (said.release, said.before, said.after) != (step.release, step.before, step.after):
            raise _refused(path, f"it is for {said.release}, from version {said.before} to {said.after}")
        if said.until < now:
            raise _refused(path, f"it ended {said.until:%Y-%m-%d %H:%M} UTC")
        if digest in used:
            raise _refused(path, "it was used before")
        agreed[who.keyid] = {"by": who.name, "keyid": who.keyid, "reason": said.reason, "sha256": digest}
    if len(agreed) < asked.threshold:
        raise TrustError(
            f"{asked.threshold} of {', '.join(k.name for k in asked.keys)} must agree to a downgrade here, {len(agreed)} did",
            where=str(directory / POLICY),
            remedy="Ask for `appliance trust approve-downgrade "
            f"{step.release} --from {step.before} --to {step.after} --reason … --key NAME.pub.json`, and give the file with --approval.",
        )
    return list(agreed.values())


def _read(path: Path, asked: Policy) -> tuple[SecondKey, Approval, str]:
    """Who signed an approval, what it says, and its SHA-256."""
    known, payload = opened(path, asked, TYPE)
    try:
        said = Approval.model_validate(strictjson.loads(payload))
    except ValueError as error:
        raise _refused(path, "what is signed is no approval") from error
    if said.until.tzinfo is None:
        raise _refused(path, "what is signed is no approval")
    return known, said, hashlib.sha256(payload).hexdigest()


def opened(path: Path, asked: Policy, payload_type: str) -> tuple[SecondKey, bytes]:
    """Who of a policy signed a file, and what is signed. Only the keys of the policy are tried.

    Raises:
        TrustError: none of them did, or it is of another type.
    """
    raw = inputfile.read(path, MAX_APPROVAL, "the approval")
    try:
        sealed = Envelope.from_dict(strictjson.loads(raw))
    except Exception as error:  # securesystemslib raises many types on malformed input
        raise _refused(path, f"it is no approval: {error}") from error
    for known in asked.keys:
        try:
            sealed.verify([Key.from_dict(known.keyid, dict(known.key))], 1)
        except Exception:  # noqa: S112  not signed by this one; a key that cannot be read agrees to nothing
            continue
        if sealed.payload_type != payload_type:
            raise _refused(path, "what is signed is no approval")
        return known, sealed.payload
    raise _refused(path, f"none of {', '.join(k.name for k in asked.keys)} signed it")


def _used(directory: Path) -> set[str]:
    """SHA-256 of the approvals on record.

    Raises:
        TrustError: the record is damaged.
    """
    path = directory / "overrides.log"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {entry["sha256"] for line in lines for entry in line.get("approved", ())}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(
            "the record of overrides is damaged", where=str(path), remedy="Put it back from a backup."
        ) from error


def _refused(path: Path, why: str) -> TrustError:
    return TrustError(
        f"this does not approve it: {why}",
        where=str(path),
        remedy="Ask for a new approval of exactly this.",
    )
