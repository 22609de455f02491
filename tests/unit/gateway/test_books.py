"""Budgets: all scopes in one step, exact, and the same after a replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.gateway.configuration import KINDS, Limits
from engine.gateway.ledger import core, selftest
from engine.gateway.ledger.books import Books
from engine.gateway.ledger.clock import Clock, Now
from tests import gatewaysite as lab

SCOPES = [("key", "k"), ("tenant", "t"), ("project", "t/p"), ("model", "m")]
CLOCK = Clock("UTC")


def _now(mono: float = 0.0, day: str = "2026-12-01") -> Now:
    return Now(1000 + mono, 1_796_083_200 + mono, day, day[:7])  # midnight of the first of December


def _limited(books: Books, scope: str, kind: str, limit: int, hold: int, now: Now) -> Any:
    limits = [(s, Limits.model_validate({kind: limit}) if s[0] == scope else Limits()) for s in SCOPES]
    return books.deny(limits, hold, now, CLOCK)


@pytest.mark.parametrize("scope", [s[0] for s in SCOPES])
@pytest.mark.parametrize("kind", KINDS)
def test_room_for_ten_takes_ten_of_two_hundred(scope: str, kind: str) -> None:
    books, now, taken = Books(), _now(), 0
    limit, hold = (100, 10) if kind.startswith("tokens") else (10, 10)
    for i in range(200):
        if (denial := _limited(books, scope, kind, limit, hold, now)) is None:
            books.reserve(f"r{i}", "w", SCOPES, hold, 20, {}, now)
            taken += 1
        else:
            assert (denial.scope, denial.kind, denial.limit, denial.remaining, denial.never) == (
                scope,
                kind,
                limit,
                0,
                False,
            )
            assert denial.reset_s > 0
    assert taken == 10


def test_a_refused_request_costs_nothing_in_any_scope() -> None:
    books, now = Books(), _now()
    assert _limited(books, "model", "tokens_per_minute", 5, 10, now).never
    assert books.dump() == Books().dump()


def test_settling_twice_is_settling_once() -> None:
    books, now = Books(), _now()
    books.reserve("r", "w", SCOPES, 100, 200, {}, now)
    assert books.settle("r", 30, now) is not None
    before = books.dump()
    assert books.settle("r", 30, now) is None
    assert books.dump() == before
    assert books.usages["key", "k"].minute_tokens == 30
    assert books.usages["key", "k"].running == 0


def test_the_same_reservation_twice_counts_once() -> None:
    books, now = Books(), _now()
    first = books.reserve("r", "w", SCOPES, 100, 200, {}, now)
    assert books.reserve("r", "w", SCOPES, 100, 200, {}, now) is first
    assert books.usages["tenant", "t"].requests == 1


def test_what_was_used_beyond_the_reserve_counts_in_the_window_it_ends_in() -> None:
    books = Books()
    books.reserve("more", "w", SCOPES, 100, 200, {}, _now())
    books.reserve("less", "w", SCOPES, 100, 200, {}, _now())
    later = _now(120, "2026-12-02")
    books.settle("more", 150, later)
    books.settle("less", 10, later)
    usage = books.usages["key", "k"]
    assert (usage.minute_tokens, usage.day_tokens) == (50, 50)  # the refund of yesterday opens nothing today
    assert usage.month_tokens == 100 + 100 + 50 - 90


def test_of_several_limits_the_one_that_lasts_longest_is_named() -> None:
    books, now = Books(), _now()
    limits = [(("key", "k"), Limits(requests_per_minute=1)), (("tenant", "t"), Limits(tokens_per_day=10))]
    books.reserve("r", "w", SCOPES, 10, 10, {}, now)
    denial = books.deny(limits, 1, now, CLOCK)
    assert denial is not None
    assert (denial.kind, denial.scope) == ("tokens_per_day", "tenant")
    assert denial.reset_s > 60


def test_minutes_begin_again_and_days_follow_the_site_s_zone() -> None:
    times = lab.Times()
    clock = Clock("Europe/Berlin", wall=lambda: times.wall, mono=lambda: times.mono)
    times.wall = 1_796_079_599.0  # 2026-11-30T22:59:59Z, a second before midnight in Berlin
    before = clock.now()
    assert (before.day, clock.until_next_day(before)) == ("2026-11-30", 1.0)
    times.pass_(1)
    after = clock.now()
    assert (after.day, after.month) == ("2026-12-01", "2026-12")
    assert clock.until_next_month(after) == 31 * 86_400


def test_a_clock_that_is_set_back_does_not_open_a_day_again() -> None:
    times = lab.Times()
    clock = Clock("UTC", wall=lambda: times.wall, mono=lambda: times.mono)
    books, limits = Books(), [(("key", "k"), Limits(tokens_per_day=10))]
    books.reserve("r", "w", [("key", "k")], 10, 10, {}, clock.now())
    times.wall -= 3 * 86_400
    times.mono += 1
    assert books.deny(limits, 1, clock.now(), clock) is not None


def test_after_a_reboot_a_minute_is_never_shorter() -> None:
    books = Books()
    books.reserve("r", "w", SCOPES, 10, 10, {}, _now(5000))
    books.rebooted(_now(-990))  # seconds since boot begin again
    assert _limited(books, "key", "requests_per_minute", 1, 1, _now(-940)) is not None
    assert _limited(books, "key", "requests_per_minute", 1, 1, _now(-929)) is None
    books.settle("r", 3, _now(-940))
    assert books.usages["key", "k"].minute_tokens == 3


# What may happen to a ledger, as (what, number, amount).
STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "lose", "time", "refuse", "configure"]), st.integers(0, 12), st.integers(0, 400)), max_size=40,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_counters_are_the_replay_of_the_log_at_any_instant(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    where, times = tmp_path_factory.mktemp("ledger"), lab.Times()
    config = lab.configuration(where, timezone="UTC")
    tight = config.tenants[0].model_copy(update={"limits": Limits(tokens_per_minute=900, concurrent_requests=5)})
    other = config.model_copy(update={"tenants": (tight, *config.tenants[1:])})
    with lab.closing(lab.ledger(config, times)) as made:
        for what, number, amount in steps:
            rid = f"r{number}"
            if what == "reserve":
                made.reserve("w", lab.ask(rid, hold=amount, ceiling=2 * amount))
            elif what == "settle":
                made.settle(rid, amount, {"status": 200})
            elif what == "lose":
                made.lose([r for r in made.books.open.values() if r.rid == rid])
            elif what == "time":
                times.pass_(amount)
            elif what == "refuse":
                made.reserve("w", lab.ask(rid, credential="nobody"))
            else:
                made.configure(other if amount % 2 else config)
            made.commit()
            assert _replayed(where) == json.loads(json.dumps(made.books.dump()))
            running = sum(1 for r in made.books.open.values())
            assert all(u.running == running for s, u in made.books.usages.items() if s[0] in ("tenant", "model"))
            assert all(u.day_tokens >= 0 and u.month_tokens >= u.day_tokens for u in made.books.usages.values())


def _replayed(where: Path) -> Any:
    """The books as a ledger that starts now would have them."""
    from engine.gateway.ledger.wal import Log, _lines

    log = Log(where / "ledger" / "state")
    state = log._state()
    assert state is not None
    books = Books.restore(state["state"]["books"])
    path = log._path(state["sequence"])
    for record, _ in _lines(path, path.read_bytes()):
        core.apply(books, record)
    return json.loads(json.dumps(books.dump()))


def test_the_self_test_passes_and_finds_a_limit_that_does_not_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lab.configuration(tmp_path)
    tenant = config.tenants[0].model_copy(update={"limits": Limits(tokens_per_day=7)})
    config = config.model_copy(update={"tenants": (tenant, *config.tenants[1:])})
    assert selftest.run(config) == []
    from engine.gateway.ledger import books

    whole = books._measures
    monkeypatch.setattr(books, "_measures", lambda *a: (m for m in whole(*a) if m[0] != "tokens_per_day"))
    assert "tokens_per_day of tenant team-a" in selftest.run(config)
