"""Checks an audit log: whether each line follows from the one before, and whether it holds what was exported. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.gateway.audit import chain
from engine.gateway.audit.chain import NOTHING

MOST_FAULTS = 20


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where: segment and line, counted from 1; line 0 speaks of the log as a whole."""

    segment: str
    line: int
    what: str


@dataclass
class Verdict:
    """What a log holds. It is sound when there are no faults; notes are worth knowing and no tampering."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chain: str = ""
    first: int = 0
    last: int = 0
    last_hash: str = NOTHING
    checkpoints: int = 0
    signed_through: int = 0

    def fault(self, segment: str, line: int, what: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(Fault(segment, line, what))


def verify(
    segments: Iterable[tuple[str, Iterable[bytes]]], key: Ed25519PublicKey, exported: chain.Checkpoint | None = None
) -> Verdict:
    """Check a log.

    Args:
        segments: name and lines (without their ends) of each, oldest first.
        exported: the last checkpoint that left the host; without one, what was cut off at the end cannot be noticed.
    """
    walk = _Walk(Verdict(), key, exported)
    for name, lines in segments:
        for number, line in enumerate(lines, 1):
            try:
                record = chain.parse(line)
            except ValueError as error:
                walk.verdict.fault(name, number, f"not a record: {error}")
                continue
            walk.record(name, number, line, record)
    walk.end()
    return walk.verdict


class _Walk:
    """The state of a verification between two lines."""

    def __init__(self, verdict: Verdict, key: Ed25519PublicKey, exported: chain.Checkpoint | None) -> None:
        self.verdict, self._key, self._exported = verdict, key, exported
        self._dropped: tuple[int, str] = (0, NOTHING)
        self._begins_after = NOTHING  # the hash that the first record names
        self._found = exported is None

    def record(self, name: str, number: int, line: bytes, record: chain.Record) -> None:
        verdict = self.verdict
        if not verdict.first:
            verdict.first, self._begins_after = record["n"], record["prev"]
        elif record["n"] != verdict.last + 1:
            verdict.fault(
                name,
                number,
                f"record {record['n']} follows record {verdict.last}: {_misplaced(record['n'], verdict.last)}",
            )
        elif record["prev"] != verdict.last_hash:
            verdict.fault(
                name, number, f"record {record['n']} does not follow from the one before: one of them was changed"
            )
        verdict.last, verdict.last_hash = record["n"], chain.digest(line)
        if self._exported and record["n"] == self._exported.n:
            self._found = True
            if verdict.last_hash != self._exported.hash:
                verdict.fault(name, number, f"record {record['n']} is not the one that the exported checkpoint names")
        match record["kind"]:
            case "start":
                verdict.chain = str(record.get("chain"))
            case "checkpoint":
                self._checkpoint(name, number, record)
            case "dropped":
                self._dropped = (record.get("through", 0), str(record.get("hash")))

    def _checkpoint(self, name: str, number: int, record: chain.Record) -> None:
        verdict = self.verdict
        try:
            found = chain.checkpoint_of(record.get("of"))
        except ValueError:
            found = None
        if found is None or not found.holds(self._key):
            verdict.fault(name, number, f"the checkpoint {record['n']} is not signed with this key")
        elif (found.n, found.hash) != (record["n"] - 1, record["prev"]):
            verdict.fault(name, number, f"the checkpoint {record['n']} is of another place")
        elif verdict.chain not in ("", found.chain):
            verdict.fault(name, number, f"the checkpoint {record['n']} is of another log")
        else:
            verdict.chain, verdict.checkpoints, verdict.signed_through = found.chain, verdict.checkpoints + 1, found.n

    def end(self) -> None:
        verdict = self.verdict
        if not verdict.first:
            verdict.fault("", 0, "there are no records")
            return
        if verdict.first > 1 and self._dropped != (verdict.first - 1, self._begins_after):
            verdict.fault(
                "", 0, f"the log begins with record {verdict.first}, and no record says that those before were deleted"
            )
        if not verdict.checkpoints:
            verdict.notes.append("no checkpoint is signed yet")
        elif verdict.signed_through + 1 < verdict.last:
            verdict.notes.append(f"the last {verdict.last - verdict.signed_through - 1} records are not signed yet")
        if self._exported is None:
            verdict.notes.append(
                "no exported checkpoint was given, so records that are missing at the end cannot be noticed"
            )
        else:
            self._compare(self._exported)

    def _compare(self, exported: chain.Checkpoint) -> None:
        verdict = self.verdict
        if not exported.holds(self._key):
            verdict.fault("", 0, "the exported checkpoint is not signed with this key")
        elif exported.chain != verdict.chain:
            verdict.fault("", 0, "this is another log than the exported checkpoint's")
        elif verdict.last < exported.n:
            verdict.fault(
                "",
                0,
                f"the log ends with record {verdict.last}, but it had {exported.n}: its end was cut off, or this is an older copy",
            )
        elif not self._found and exported.n >= verdict.first:
            verdict.fault("", 0, f"record {exported.n}, which the exported checkpoint names, is missing")


def _misplaced(n: int, last: int) -> str:
    return f"records {last + 1} to {n - 1} are missing" if n > last + 1 else "it was moved or is there twice"
