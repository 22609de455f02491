"""The next root: which key may do what from now on. Pure; signing and files are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root

from engine.errors import InputError

ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True)
class Change:
    """What becomes of one role. ``revoke`` holds key ids; ``threshold`` None keeps it."""

    role: str
    add: tuple[Key, ...] = ()
    revoke: tuple[str, ...] = ()
    threshold: int | None = None


@dataclass(frozen=True)
class Signatures:
    """Who signed, of those who may. Key ids; ``need`` is the threshold."""

    have: tuple[str, ...]
    lack: tuple[str, ...]
    need: int

    @property
    def enough(self) -> bool:
        return len(self.have) >= self.need


def first(roles: Mapping[str, Sequence[Key]], thresholds: dict[str, int], expires: datetime) -> Root:
    """Version 1 of the root.

    Raises:
        InputError: a threshold cannot be met.
    """
    root = Root(version=1, expires=expires, consistent_snapshot=False)
    for role, keys in roles.items():
        for key in keys:
            root.add_key(key, role)
        root.roles[role].threshold = thresholds.get(role, 1)
    check(root)
    return root


def following(root: Root, change: Change, expires: datetime) -> Root:
    """The version after ``root`` with one role changed.

    Raises:
        InputError: a key to revoke is not there, nothing changes, or the threshold cannot be met.
    """
    after = Root.from_dict(root.to_dict())
    after.version += 1
    after.expires = expires
    for keyid in change.revoke:
        if keyid not in after.roles[change.role].keyids:
            raise InputError(
                f"{keyid[:16]} is not a key of the role {change.role}", remedy="`appliance keys show` lists them."
            )
        after.revoke_key(keyid, change.role)
    for key in change.add:
        after.add_key(key, change.role)
    if change.threshold is not None:
        after.roles[change.role].threshold = change.threshold
    check(after)
    return after


def check(root: Root) -> None:
    """Every role can reach its threshold.

    Raises:
        InputError: one cannot.
    """
    for role in ROLES:
        have, need = len(root.roles[role].keyids), root.roles[role].threshold
        if not 1 <= need <= have <= 16:
            raise InputError(
                f"a threshold of {need} of {have} {role} keys is not possible",
                remedy="Use 1 ≤ threshold ≤ keys ≤ 16; give --threshold, or add a key before another is revoked.",
            )


def root_signatures(candidate: Metadata[Root], before: Root | None) -> list[Signatures]:
    """Signatures a new root has by its own rule and, from version 2 on, by the rule of the one before it."""
    judges = [candidate.signed, *([before] if before else [])]
    return [signatures(judge, "root", candidate.signed_bytes, candidate.signatures) for judge in judges]


def signatures(judge: Root, role: str, payload: bytes, given: dict) -> Signatures:  # type: ignore[type-arg]  # securesystemslib's Signature by key id
    """Which keys of a role have validly signed the payload."""
    result = judge.get_verification_result(role, payload, given)
    return Signatures(tuple(sorted(result.signed)), tuple(sorted(result.unsigned)), result.threshold)
