"""What was used, and what is reserved, for every key, project, tenant and model. Pure: time comes in as an argument.

A reservation counts in all its scopes in one step, or in none. Settling replaces what was reserved by what was used; a second time
it does nothing. Every change follows from its record alone, so replaying the records gives the same books.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.gateway.configuration import Limits
from engine.gateway.ledger.clock import Clock, Now

MINUTE_S = 60.0
Scope = tuple[str, str]  # kind (key, project, tenant, model) and name


class Usage:
    """What one scope used in its current minute, day and month, and what runs now.

    A minute begins with the first request after the last one ended.
    """

    __slots__ = ("day", "day_tokens", "minute", "minute_tokens", "month", "month_tokens", "requests", "running")

    def __init__(self) -> None:
        self.minute, self.requests, self.minute_tokens = 0.0, 0, 0
        self.day, self.day_tokens = "", 0
        self.month, self.month_tokens = "", 0
        self.running = 0

    def stale(self, now: Now) -> bool:
        """Whether a window of it has ended."""
        return now.mono >= self.minute + MINUTE_S or now.day > self.day or now.month > self.month

    def roll(self, now: Now) -> None:
        """Begin the windows that ``now`` is the first to be in."""
        if now.mono >= self.minute + MINUTE_S or not self.day:
            self.minute, self.requests, self.minute_tokens = now.mono, 0, 0
        if now.day > self.day:
            self.day, self.day_tokens = now.day, 0
        if now.month > self.month:
            self.month, self.month_tokens = now.month, 0

    def dump(self) -> list[Any]:
        return [getattr(self, name) for name in sorted(self.__slots__)]

    @classmethod
    def restore(cls, values: Sequence[Any]) -> Usage:
        made = cls()
        for name, value in zip(sorted(cls.__slots__), values, strict=True):
            setattr(made, name, value)
        return made


@dataclass(frozen=True)
class Denial:
    """The limit that refused: of which scope and kind, what it allows, what is left, and when it begins again.

    Attributes:
        never: the request is larger than the limit, so that waiting does not help.
    """

    scope: str
    kind: str
    limit: int
    remaining: int
    reset_s: float
    never: bool = False


@dataclass(frozen=True)
class Reservation:
    """What a request holds until it is settled.

    Attributes:
        owner: the worker that carries it.
        hold: tokens that count against limits meanwhile.
        ceiling: tokens that are charged when nobody can say what was used.
        windows: of each scope the minute, day and month that ``hold`` was counted in.
        entry: facts for the audit log.
    """

    rid: str
    owner: str
    scopes: tuple[Scope, ...]
    hold: int
    ceiling: int
    windows: tuple[tuple[float, str, str], ...]
    entry: dict[str, Any]


class Books:
    """The counters of a site."""

    def __init__(self) -> None:
        self.usages: dict[Scope, Usage] = {}
        self.open: dict[str, Reservation] = {}

    def view(self, scope: Scope, now: Now) -> Usage:
        """The usage of a scope as it is at ``now``. Nothing changes: a window begins with what is recorded, not with a look."""
        found = self.usages.get(scope)
        if found is None or found.stale(now):
            found = Usage.restore(found.dump()) if found else Usage()
            found.roll(now)
        return found

    def _usage(self, scope: Scope, now: Now) -> Usage:
        if (found := self.usages.get(scope)) is None:
            found = self.usages[scope] = Usage()
        found.roll(now)
        return found

    def deny(self, scopes: Iterable[tuple[Scope, Limits]], hold: int, now: Now, clock: Clock) -> Denial | None:
        """The limit that a reservation would break: of several, one that can never be met, or the one that lasts longest."""
        worst: Denial | None = None
        for scope, limits in scopes:
            usage = self.view(scope, now)
            for kind, limit, used, asked in _measures(usage, limits, hold):
                if limit is None or used + asked <= limit:
                    continue
                denial = Denial(
                    scope[0], kind, limit, max(0, limit - used), _reset(kind, usage, now, clock), asked > limit
                )
                if worst is None or (denial.never, denial.reset_s) > (worst.never, worst.reset_s):
                    worst = denial
        return worst

    def reserve(
        self, rid: str, owner: str, scopes: Sequence[Scope], hold: int, ceiling: int, entry: dict[str, Any], now: Now
    ) -> Reservation:
        """Count a reservation in all its scopes; one that is open already is handed back as it is."""
        if (known := self.open.get(rid)) is not None:
            return known
        windows = []
        for scope in scopes:
            usage = self._usage(scope, now)
            usage.requests += 1
            usage.minute_tokens += hold
            usage.day_tokens += hold
            usage.month_tokens += hold
            usage.running += 1
            windows.append((usage.minute, usage.day, usage.month))
        made = Reservation(rid, owner, tuple(scopes), hold, ceiling, tuple(windows), entry)
        self.open[rid] = made
        return made

    def settle(self, rid: str, tokens: int, now: Now) -> Reservation | None:
        """Replace what was reserved by the ``tokens`` that were used; None when the reservation is not open (any more)."""
        if (found := self.open.pop(rid, None)) is None:
            return None
        more = tokens - found.hold
        for scope, (minute, day, month) in zip(found.scopes, found.windows, strict=True):
            usage = self._usage(scope, now)
            usage.running -= 1
            # What was used beyond the reserve counts even when its window has ended; what was not used is only given back to its own.
            usage.minute_tokens += more if usage.minute == minute else max(0, more)
            usage.day_tokens += more if usage.day == day else max(0, more)
            usage.month_tokens += more if usage.month == month else max(0, more)
        return found

    def cancel(self, rid: str) -> None:
        """Take a reservation back that was counted a moment ago and could not be written down."""
        found = self.open.pop(rid)
        for scope in found.scopes:
            usage = self.usages[scope]
            usage.requests -= 1
            usage.minute_tokens -= found.hold
            usage.day_tokens -= found.hold
            usage.month_tokens -= found.hold
            usage.running -= 1

    def rebooted(self, now: Now) -> None:
        """Seconds since boot begin again: running minutes last from now, which allows less and never more."""
        for usage in self.usages.values():
            usage.minute = now.mono
        self.open = {
            rid: Reservation(
                r.rid, r.owner, r.scopes, r.hold, r.ceiling, tuple((now.mono, d, m) for _, d, m in r.windows), r.entry
            )
            for rid, r in self.open.items()
        }

    def prune(self, now: Now) -> None:
        """Forget scopes that have not been used this month."""
        for scope in [
            s
            for s, u in self.usages.items()
            if not u.running and u.month < now.month and u.minute + MINUTE_S < now.mono
        ]:
            del self.usages[scope]

    def dump(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "usages": [[*scope, usage.dump()] for scope, usage in sorted(self.usages.items())],
            "open": [
                [r.rid, r.owner, [list(s) for s in r.scopes], r.hold, r.ceiling, [list(w) for w in r.windows], r.entry]
                for r in self.open.values()
            ],
        }

    @classmethod
    def restore(cls, dumped: dict[str, Any]) -> Books:
        made = cls()
        for kind, name, values in dumped["usages"]:
            made.usages[kind, name] = Usage.restore(values)
        for rid, owner, scopes, hold, ceiling, windows, entry in dumped["open"]:
            made.open[rid] = Reservation(
                rid,
                owner,
                tuple((k, n) for k, n in scopes),
                hold,
                ceiling,
                tuple((s, d, m) for s, d, m in windows),
                entry,
            )
        return made


def _measures(usage: Usage, limits: Limits, hold: int) -> Iterable[tuple[str, int | None, int, int]]:
    """Kind, limit, what is used and what is asked for."""
    yield "requests_per_minute", limits.requests_per_minute, usage.requests, 1
    yield "tokens_per_minute", limits.tokens_per_minute, usage.minute_tokens, hold
    yield "tokens_per_day", limits.tokens_per_day, usage.day_tokens, hold
    yield "tokens_per_month", limits.tokens_per_month, usage.month_tokens, hold
    yield "concurrent_requests", limits.concurrent_requests, usage.running, 1


def _reset(kind: str, usage: Usage, now: Now, clock: Clock) -> float:
    if kind == "tokens_per_day":
        return clock.until_next_day(now)
    if kind == "tokens_per_month":
        return clock.until_next_month(now)
    if kind == "concurrent_requests":
        return 1.0  # a request may end at any moment
    return max(0.0, usage.minute + MINUTE_S - now.mono)


def standing(usage: Usage, limits: Limits, now: Now, clock: Clock) -> dict[str, dict[str, Any]]:
    """Of each limit that is set: what it allows, what is used, what is left, and in how many seconds it begins again."""
    return {
        kind: {
            "limit": limit,
            "used": used,
            "remaining": max(0, limit - used),
            "reset_s": round(_reset(kind, usage, now, clock), 3),
        }
        for kind, limit, used, _ in _measures(usage, limits, 0)
        if limit is not None
    }
