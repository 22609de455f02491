"""What the ledger does with each message: reserve, settle, admit, write down. Time, log and chain are handed in.

Order of writing: the log first, then the audit line that follows from it, then the answer. A line that a crash left out is written at
the next start, from the log. When the disk is full, new work is refused; what runs is settled in memory until there is space again,
and a crash meanwhile charges it in full.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from engine.errors import ResourceError
from engine.gateway.audit.writer import Writer
from engine.gateway.configuration import Configuration, Limits, ServedModel
from engine.gateway.ledger.admission import Admission
from engine.gateway.ledger.books import MINUTE_S, Books, Reservation, Scope, standing
from engine.gateway.ledger.clock import Clock, Now
from engine.gateway.ledger.replicas import Replicas
from engine.gateway.ledger.wal import Log, Record

COMPACT_BYTES = 64 << 20
MAX_LINES = 100_000  # audit lines that wait for space on the disk
Payload = dict[str, Any]


class Ledger:
    """All state of the gateway.

    Attributes:
        granted: requests that may run now and whose workers have not been told.
        full: why nothing can be written, or empty.
        low: little space is left on the disk; it is kept for what runs.
    """

    def __init__(self, config: Configuration, clock: Clock, log: Log, writer: Writer, boot: str) -> None:
        self.clock, self.log, self.writer, self.boot = clock, log, writer, boot
        self.books = Books()
        self.replicas = Replicas()
        self.granted: list[str] = []
        self.full = ""
        self.low = False
        self.dropped = 0
        self.admission = Admission(config.classes)
        self._records: list[Record] = []
        self._lines: list[tuple[int, Record]] = []  # with the place of its record, or -1
        self._fresh: list[str] = []  # reserved since the last commit
        self.configure(config)

    def configure(self, config: Configuration) -> None:
        """Apply a configuration to what comes from now on."""
        self.config = config
        self.models = {m.name: m for m in config.models}
        self.limits: dict[Scope, Limits] = {("model", m.name): m.limits for m in config.models}
        self.credentials: set[str] = set()
        for tenant in config.tenants:
            self.limits["tenant", tenant.name] = tenant.limits
            self.limits |= {("project", f"{tenant.name}/{p.name}"): p.limits for p in tenant.projects}
            self.limits |= {("key", k.id): k.limits for k in tenant.keys}
            self.limits |= {("key", c.id): c.limits for c in tenant.certificates}
        for issuer in config.issuers:
            self.limits |= {("key", r.id): r.limits for r in issuer.rules}
        self.admission.classes = config.classes

    def start(self) -> None:
        """Read what was written, complete the audit log, and begin a new log.

        Raises:
            DamagedError, InputError: the log cannot be read.
        """
        state, records = self.log.open()
        first = self.log.sequence - len(records) + 1
        boot = ""
        if state:
            self.books, boot = Books.restore(state["books"]), state["boot"]
            self.clock.latest = state["latest"]
        for number, record in enumerate(records, first):
            self._replay(record)
            if "entry" in record and record["op"] == "settle" and number > self.writer.applied:
                self._lines.append((number, record["entry"]))
        self.clock.latest = max([self.clock.latest, *(r["at"][1] for r in records if "at" in r)])
        if boot and boot != self.boot:
            self.books.rebooted(self.clock.now())
        for reservation in self.books.open.values():
            self.admission.resume(reservation.rid, reservation.entry["model"], reservation.entry["class"])
        self.writer.append([{**entry, "wal": number} for number, entry in self._lines])
        self._lines.clear()
        self.compact()

    def compact(self) -> None:
        """Write the state and begin a new log; on a full disk the old one goes on."""
        self.books.prune(self.clock.now())
        self.log.compact({"books": self.books.dump(), "boot": self.boot, "latest": self.clock.latest})

    def reserve(self, owner: str, asked: Payload) -> Payload:
        """Reserve in all scopes, and ask for a slot.

        Returns:
            ``verdict`` run, wait or refused; ``replicas`` in the order to try, the state of rate limits; or the limit that refused.
        """
        rid, now = asked["rid"], self.clock.now()
        entry = asked["entry"]
        model = self.models.get(entry["model"])
        if rid in self.books.open and model:
            return self._again(rid, model, now)
        if self.full or self.low:
            return self._refuse(entry, {"reason": "storage"}, 503, "storage_full")
        scopes = _scopes(entry)
        if model is None or any(s not in self.limits for s in scopes):
            return self._refuse(entry, {"reason": "revoked"}, 401, "credential_revoked")
        limits = [(s, self.limits[s]) for s in scopes]
        if denial := self.books.deny(limits, asked["hold"], now, self.clock):
            status = 400 if denial.never else 429
            return self._refuse(
                entry, {"reason": "limit", **asdict(denial)}, status, denial.kind, limit_scope=denial.scope
            )
        verdict = self.admission.offer(rid, model.name, entry["class"], self.replicas.slots(model, now.mono), now.mono)
        if verdict == "full":
            return self._refuse(entry, {"reason": "busy"}, 503, "queue_full")
        record = {
            "op": "reserve", "rid": rid, "owner": owner, "scopes": [list(s) for s in scopes], "hold": asked["hold"],
            "ceiling": asked["ceiling"], "entry": entry, "at": _at(now),
        }  # fmt: skip
        self._replay(record)
        self._records.append(record)
        self._fresh.append(rid)
        told: Payload = {"verdict": verdict, "limits": self._tightest(limits, now)}
        if verdict == "run":
            told["replicas"] = self.replicas.order(rid, model, now.mono)
        return told

    def _again(self, rid: str, model: ServedModel, now: Now) -> Payload:
        """A worker asks again after a lost connection: the answer is the same, and nothing is counted twice."""
        if self.admission.waits(rid):
            return {"verdict": "wait", "limits": {}}
        return {"verdict": "run", "replicas": self.replicas.order(rid, model, now.mono), "limits": {}}

    def settle(self, rid: str, tokens: int, facts: Payload) -> bool:
        """Charge what a request used, free its slot and write its line. False when it was not open."""
        if (found := self.books.open.get(rid)) is None:
            return False
        now = self.clock.now()
        entry = {
            **found.entry,
            **facts,
            "request": rid,
            "kind": "request",
            "reserved_tokens": found.hold,
            "charged_tokens": tokens,
        }
        record = {"op": "settle", "rid": rid, "tokens": tokens, "entry": entry, "at": _at(now)}
        self._replay(record)
        self._records.append(record)
        self._lines.append((len(self._records) - 1, entry))
        self._free(rid, now)
        return True

    def lose(self, reservations: Iterable[Reservation]) -> None:
        """Requests whose worker is gone: nobody can say what they used, so all they could have used is charged."""
        for reservation in list(reservations):
            facts = {
                "status": 0,
                "outcome": "lost",
                "estimated": True,
                "prompt_tokens": None,
                "completion_tokens": None,
            }
            self.settle(reservation.rid, reservation.ceiling, facts)

    def note(self, entry: Payload) -> None:
        """Write a line that changes no counter: a refused request, an administrative act."""
        if len(self._lines) >= MAX_LINES:
            self.dropped += 1
        else:
            self._lines.append((-1, entry))

    def expire(self) -> list[str]:
        """Requests whose time in a queue is over; their workers settle them."""
        return self.admission.expired(self.clock.now().mono)

    def unreachable(self, model: str, replica: int) -> None:
        """A worker could not connect to a replica."""
        self.replicas.down(model, replica, self.clock.now().mono)

    def grant(self) -> None:
        """Look for requests that fit now, in all models."""
        now = self.clock.now().mono
        for name in self.admission.models():
            if (model := self.models.get(name)) is not None:
                self.granted.extend(self.admission.grant(name, self.replicas.slots(model, now)))

    def assign(self, rid: str) -> list[int]:
        """Replicas for a request that was granted."""
        model = self.models.get(self.books.open[rid].entry["model"])
        return self.replicas.order(rid, model, self.clock.now().mono) if model else []

    def standing(self, entry: Payload) -> dict[str, Any]:
        """What is left of each limit of each scope of a credential."""
        now = self.clock.now()
        scopes = [s for s in _scopes(entry) if s in self.limits]
        return {
            kind: standing(self.books.view((kind, name), now), self.limits[kind, name], now, self.clock)
            for kind, name in scopes
        }

    def commit(self) -> set[str]:
        """Write what happened since the last time; only then may anybody be told.

        Returns:
            requests whose reservation could not be written and does not count.
        """
        undone: set[str] = set()
        first = self.log.sequence + 1
        try:
            if self._records:
                self.log.append(self._records)
            self.full = ""
        except OSError as error:
            self.full = error.strerror or "it cannot be written"
            undone = self._undo()
        else:
            self._records.clear()
            self._lines = [(-1, {**e, "wal": first + place} if place >= 0 else e) for place, e in self._lines]
        self._fresh.clear()
        if not self.full:
            self._write_lines()
        if self.log.size > COMPACT_BYTES and not self.full:
            try:
                self.compact()
            except (OSError, ResourceError) as error:
                self.full = str(error)
        return undone

    def _write_lines(self) -> None:
        lines = [e for _, e in self._lines]
        if self.dropped:
            lines.append({"kind": "dropped_lines", "count": self.dropped})
        try:
            if lines:
                self.writer.append(lines)
            self._lines.clear()
            self.dropped = 0
        except OSError as error:
            self.full = error.strerror or "it cannot be written"

    def _undo(self) -> set[str]:
        """Take back what was reserved since the last commit; what was settled stays, to be written later."""
        undone, now = set(self._fresh), self.clock.now()
        for rid in undone:
            self.books.cancel(rid)
            self._free(rid, now)
        kept = [i for i, r in enumerate(self._records) if r["rid"] not in undone]
        places = {old: new for new, old in enumerate(kept)}
        self._lines = [(places.get(place, -1), e) for place, e in self._lines if place < 0 or place in places]
        self._records = [self._records[i] for i in kept]
        return undone

    def _free(self, rid: str, now: Now) -> None:
        self.replicas.release(rid)
        name = self.admission.release(rid)
        if name and (model := self.models.get(name)):
            self.granted.extend(self.admission.grant(name, self.replicas.slots(model, now.mono)))

    def _replay(self, record: Record) -> None:
        apply(self.books, record)

    def _refuse(self, entry: Payload, told: Payload, status: int, code: str, **facts: Any) -> Payload:
        self.note(
            {
                **entry,
                **facts,
                "kind": "request",
                "status": status,
                "code": code,
                "outcome": "refused",
                "charged_tokens": 0,
            }
        )
        return {"verdict": "refused", **told}

    def _tightest(self, limits: list[tuple[Scope, Limits]], now: Now) -> dict[str, list[float]]:
        """Of requests and of tokens a minute: the limit with the least left, as limit, remaining, seconds."""
        found: dict[str, list[float]] = {}
        for scope, bounds in limits:
            usage = self.books.view(scope, now)
            for name, limit, used in (
                ("requests", bounds.requests_per_minute, usage.requests),
                ("tokens", bounds.tokens_per_minute, usage.minute_tokens),
            ):
                if limit is not None and (name not in found or limit - used < found[name][1]):
                    found[name] = [limit, max(0, limit - used), max(0.0, usage.minute + MINUTE_S - now.mono)]
        return found


def apply(books: Books, record: Record) -> None:
    """What one record changes. Pure."""
    now = Now(*record["at"])
    if record["op"] == "reserve":
        scopes = [(kind, name) for kind, name in record["scopes"]]
        books.reserve(record["rid"], record["owner"], scopes, record["hold"], record["ceiling"], record["entry"], now)
    else:
        books.settle(record["rid"], record["tokens"], now)


def _at(now: Now) -> list[Any]:
    return [now.mono, now.wall, now.day, now.month]


def _scopes(entry: Payload) -> list[Scope]:
    """All scopes that a request counts in."""
    found = [("key", entry["credential"]), ("tenant", entry["tenant"])]
    if entry.get("project"):
        found.append(("project", f"{entry['tenant']}/{entry['project']}"))
    if entry.get("model"):
        found.append(("model", entry["model"]))
    return found
