"""The evidence of egress proofs as a chain of records, and what is wrong with one. Pure; nodes and the control host agree here.

A record is one line of JSON. It names its number and the SHA-256 of the line before, so that a line that was edited, moved,
removed or put in again does not fit. Every few records a *seal*, a record itself, carries the node's Ed25519 signature over
all before it; the *head*, beside the chain, is signed with every record and says where the chain ends. Segments are files of
whole records; old ones are dropped from the front, and a record says so before it happens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from engine import strictjson

NOTHING = "0" * 64  # what the first record has instead of a hash of the one before
MAX_LINE = 64 << 10  # bytes; a proof of eight interfaces says 2 kB
MOST_FAULTS = 20

Record = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """Where a chain ends: number and hash of its last record, and the number of its last seal."""

    chain: str
    n: int
    hash: str
    time: str
    sealed: int
    signature: str = ""

    def statement(self) -> bytes:
        return f"appliance egress head\n{self.chain}\n{self.n}\n{self.hash}\n{self.time}\n{self.sealed}\n".encode()


@dataclass(frozen=True)
class Memory:
    """What a verifier has seen of a chain before; a chain that does not hold it was cut or exchanged."""

    chain: str
    n: int
    hash: str


@dataclass(frozen=True)
class Fault:
    """What is wrong, and where: segment and line, counted from 1; line 0 speaks of the segment or the chain as a whole."""

    segment: str
    line: int
    what: str


@dataclass
class Verdict:
    """What a chain holds. It is sound when there are no faults; notes are worth knowing and no tampering."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chain: str = ""
    first: int = 0
    last: int = 0
    last_hash: str = NOTHING
    last_time: str = ""
    sealed: int = 0
    proofs: int = 0
    bad_proofs: int = 0
    last_proof: Record | None = None

    @property
    def sound(self) -> bool:
        return not self.faults

    def fault(self, segment: str, line: int, what: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(Fault(segment, line, what))


def line_of(record: Record) -> bytes:
    """The one form of a record as a line, without its end."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def seal_statement(chain: str, n: int, prev: str) -> bytes:
    """What the seal with number ``n`` signs: everything before it."""
    return f"appliance egress seal\n{chain}\n{n}\n{prev}\n".encode()


def signed(key: Ed25519PrivateKey, statement: bytes) -> str:
    return key.sign(statement).hex()


def holds(key: Ed25519PublicKey, signature: object, statement: bytes) -> bool:
    """Whether ``signature`` (hex) is the key's over ``statement``."""
    try:
        key.verify(bytes.fromhex(str(signature)), statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def parse(line: bytes) -> Record:
    """A record.

    Raises:
        ValueError: the line is none.
    """
    if len(line) > MAX_LINE:
        raise ValueError("the line is too long")
    record = strictjson.loads(line, max_parts=10_000)
    if not isinstance(record, dict) or any(
        type(record.get(k)) is not t for k, t in (("n", int), ("kind", str), ("time", str))
    ):
        raise ValueError("this is no record")
    if datetime.fromisoformat(record["time"]).tzinfo is None:
        raise ValueError("its time has no zone")
    if record["kind"] == "dropped" and type(record.get("through")) is not int:
        raise ValueError("it does not say what was dropped")
    return record


def head_of(raw: bytes) -> Head:
    """A head from its file.

    Raises:
        ValueError: it is none.
    """
    found = strictjson.loads(raw, max_parts=100)
    if not isinstance(found, dict) or found.keys() != Head.__dataclass_fields__.keys():
        raise ValueError("this is no head")
    head = Head(**found)
    if any(type(v) is not int for v in (head.n, head.sealed)) or any(
        type(v) is not str for v in (head.chain, head.hash, head.time)
    ):
        raise ValueError("this is no head")
    return head


def verify(
    segments: Iterable[tuple[str, Iterable[bytes]]],
    key: Ed25519PublicKey,
    head: Head | None,
    *,
    memory: Memory | None = None,
    now: datetime | None = None,
    late_after: timedelta | None = None,
) -> Verdict:
    """Check a chain.

    Args:
        segments: name and lines (without their ends) of each, oldest first.
        memory: what was seen of it before.
        now, late_after: how old the newest record may be; not checked without.
    """
    verdict = Verdict()
    walk = _Walk(verdict, key, memory)
    for name, lines in segments:
        walk.segment(name, lines)
    walk.end(head)
    if now and late_after and verdict.last_time:
        age = now - datetime.fromisoformat(verdict.last_time)
        if age > late_after:
            verdict.fault(
                "",
                0,
                f"the newest record is {_span(age)} old: records are missing at the end, or no proof was made since",
            )
        elif age < -timedelta(minutes=1):
            verdict.notes.append(f"the newest record is {_span(-age)} ahead of this clock")
    return verdict


class _Walk:
    """The state of a verification between two lines."""

    def __init__(self, verdict: Verdict, key: Ed25519PublicKey, memory: Memory | None) -> None:
        self.verdict, self.key, self.memory = verdict, key, memory
        self.started = False
        self.unanchored: tuple[str, int] | None = None  # the first line, until a seal vouches for it
        self.dropped = 0
        self.remembered = memory is None

    def segment(self, name: str, lines: Iterable[bytes]) -> None:
        for number, line in enumerate(lines, 1):
            try:
                record = parse(line)
            except ValueError as error:
                self.verdict.fault(name, number, f"this is no record: {error}")
                continue
            self._record(name, number, line, record)

    def _record(self, name: str, number: int, line: bytes, record: Record) -> None:
        verdict = self.verdict
        if not self.started:
            self._first(name, number, record)
        elif record["n"] != verdict.last + 1:
            verdict.fault(
                name,
                number,
                f"record {record['n']} follows record {verdict.last}: {_misplaced(record['n'], verdict.last)}",
            )
        elif record.get("prev") != verdict.last_hash:
            verdict.fault(name, number, f"record {record['n']} does not follow from the one before, which was changed")
        if verdict.last_time and record["time"] < verdict.last_time:
            back = datetime.fromisoformat(verdict.last_time) - datetime.fromisoformat(record["time"])
            verdict.notes.append(f"the clock went back by {_span(back)} before record {record['n']}")
        verdict.last, verdict.last_hash, verdict.last_time = record["n"], digest(line), record["time"]
        if self.memory and record["n"] == self.memory.n:
            self.remembered = True
            if verdict.last_hash != self.memory.hash:
                verdict.fault(name, number, f"record {record['n']} is not the one seen before")
        match record["kind"]:
            case "seal":
                self._seal(name, number, record)
            case "dropped":
                self.dropped = record["through"]
            case "proof":
                verdict.proofs += 1
                verdict.bad_proofs += record.get("good") is not True
                verdict.last_proof = record

    def _first(self, name: str, number: int, record: Record) -> None:
        self.started = True
        self.verdict.first, self.verdict.chain = record["n"], str(record.get("chain", ""))
        if record["n"] == 1 and (record["kind"] != "start" or record.get("prev") != NOTHING):
            self.verdict.fault(name, number, "the chain does not begin as one")
        if record["n"] != 1:
            self.unanchored = (name, number)
            if record["kind"] != "segment":
                self.verdict.fault(
                    name, number, f"the chain begins in the middle, with record {record['n']}: what came before is gone"
                )

    def _seal(self, name: str, number: int, record: Record) -> None:
        good = holds(
            self.key, record.get("signature"), seal_statement(self.verdict.chain, record["n"], str(record.get("prev")))
        )
        if not good:
            self.verdict.fault(name, number, f"the seal {record['n']} over the records before it is not this node's")
            return
        self.unanchored = None
        self.verdict.sealed = record["n"]

    def end(self, head: Head | None) -> None:
        verdict = self.verdict
        if not self.started:
            if head or self.memory:
                verdict.fault("", 0, "there are no records, but there were")
            return
        if self.unanchored:
            verdict.fault(*self.unanchored, "no seal vouches for the beginning of the chain")
        known = self.memory is not None and self.memory.n >= verdict.first  # what came before was checked then
        if verdict.first > 1 and verdict.first > self.dropped + 1 and not known:
            verdict.fault(
                "", 0, f"records before {verdict.first} are gone, but only those through {self.dropped} were dropped"
            )
        self._head(head)
        if self.memory:
            self._memory(self.memory)

    def _head(self, head: Head | None) -> None:
        verdict = self.verdict
        if head is None:
            verdict.fault("", 0, "the signed head is missing or damaged, so the end of the chain is not vouched for")
        elif head.chain != verdict.chain or not holds(self.key, head.signature, head.statement()):
            verdict.fault("", 0, "the head is not this node's, or of another chain")
        elif verdict.last < head.n:
            verdict.fault("", 0, f"the chain ends with record {verdict.last}, but it had {head.n}: the end was cut off")
        elif verdict.last == head.n and verdict.last_hash != head.hash:
            verdict.fault("", 0, f"the last record, {head.n}, was changed")
        elif verdict.last > head.n + 1:
            verdict.fault("", 0, f"the chain goes on to record {verdict.last}, but its signed head ends with {head.n}")
        elif verdict.last == head.n + 1:
            verdict.notes.append("the last record was written when the node stopped, before its head was signed")

    def _memory(self, memory: Memory) -> None:
        verdict = self.verdict
        if memory.chain != verdict.chain:
            verdict.fault("", 0, "this is another chain than the one seen before")
        elif verdict.last < memory.n:
            verdict.fault("", 0, f"record {memory.n} was seen before, but the chain ends with {verdict.last} now")
        elif not self.remembered and memory.n >= verdict.first:
            verdict.fault("", 0, f"record {memory.n}, seen before, is not in the chain")


def _misplaced(n: int, last: int) -> str:
    missing = n - last - 1
    return f"{missing} are missing between them" if missing > 0 else "it is out of order, or there twice"


def _span(time: timedelta) -> str:
    seconds = int(time.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
