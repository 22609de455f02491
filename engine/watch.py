"""Watches what comes from the source in use, and looks for another when it starves (engine.sources decides)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from engine.sources import BACKLOG, SHARE, SLOW_WAIT_S, Flight, Sample, Source, Sources, State, Verdict, judge

TICK_S = 0.25
WINDOW_S = 1.0
GATHER_S = 3.0
PATIENCE_S = 3.0  # where nothing is known of what it could bring
ROUTINE_S = 5.0  # then twice as long each time
PROBE = 1 << 20  # bytes

Have = Callable[[Source, Flight], int | None]  # bytes that it has of the blob; None when it does not answer
Measure = Callable[[Source, Flight], float]  # bytes a second of PROBE bytes from it; 0 when nothing comes


class Watch:
    """A thread for the time of a fetch."""

    def __init__(self, sources: Sources, have: Have, measure: Measure) -> None:
        self._sources = sources
        self._have = have
        self._measure = measure
        self._end = threading.Event()
        self._seen: deque[tuple[float, int]] = deque()
        self._of: Source | None = None
        self._best = 0.0
        self._before: tuple[Flight, Sample] | None = None
        self._routine_at, self._routine_s = 0.0, ROUTINE_S
        self._moved, self._moved_at = 0, 0.0
        self._asking: set[Source] = set()
        self._askers = ThreadPoolExecutor(4)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        list(self._askers.map(self._ask_at_start, self._sources.all[:-1]))
        self._gather()
        self._thread.start()
        return self

    def _gather(self) -> None:
        """Nodes of one run start a moment apart; if each began at the depot until the one before it is up, all would share its link."""
        nearest, deadline = self._sources.all[0], time.monotonic() + GATHER_S
        while nearest.state is State.AWAY and time.monotonic() < deadline:
            time.sleep(GATHER_S / 30)
            self._ask_again(nearest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._askers.shutdown(wait=False, cancel_futures=True)

    def _ask_at_start(self, source: Source) -> None:
        if self._have(source, Flight(source, "0" * 64, 0, 0)) is None:
            self._sources.away(source, "does not answer")

    def _run(self) -> None:
        while not self._end.wait(TICK_S):
            now = time.monotonic()
            for source in self._sources.due(now):
                if source not in self._asking:
                    self._asking.add(source)
                    self._askers.submit(self._ask_again, source)
            self._look(now)

    def _ask_again(self, source: Source) -> None:
        try:
            if self._have(source, Flight(source, "0" * 64, 0, 0)) is None:
                self._sources.still_away(source)
            else:
                self._sources.back(source)
        finally:
            self._asking.discard(source)

    def _look(self, now: float) -> None:
        source = self._sources.pick()
        flights = self._sources.in_flight(source)
        if source is not self._of:
            self._reset(source, now)
        if not source.peer or not flights:
            self._seen.clear()
            self._before, self._moved_at = None, now
            return
        if source.moved != self._moved:
            self._moved, self._moved_at = source.moved, now
        self._seen.append((now, source.moved))
        while now - self._seen[0][0] > WINDOW_S + TICK_S:
            self._seen.popleft()
        first_at, first = self._seen[0]
        rate = (source.moved - first) / (now - first_at) if now > first_at else 0.0
        if now - first_at >= WINDOW_S:
            self._best = max(self._best, rate)
        waits = self._best and now - first_at >= WINDOW_S and rate < self._best / SHARE
        waits = waits or (self._best and self._nothing_for(WINDOW_S / 2, now, source))
        waits = waits or now - self._moved_at > PATIENCE_S
        largest = max(flights, key=lambda f: (f.size, f.sha256))
        if waits:
            self._doubt(source, largest)
        else:
            self._before = None
            if now >= self._routine_at and largest.size - largest.done > BACKLOG:
                self._routine_s *= 2
                self._routine_at = now + self._routine_s
                self._routine(source, largest, rate)

    def _reset(self, source: Source, now: float) -> None:
        self._of, self._best, self._before = source, 0.0, None
        self._moved, self._moved_at = source.moved, now
        self._seen.clear()
        self._routine_at, self._routine_s = now + ROUTINE_S, ROUTINE_S

    def _nothing_for(self, seconds: float, now: float, source: Source) -> bool:
        old = [moved for at, moved in self._seen if now - at >= seconds]
        return bool(old) and old[-1] == source.moved

    def _doubt(self, source: Source, flight: Flight) -> None:
        """Look at the source and at the one behind it, twice, and leave it when it is to blame."""
        near = self._have(source, flight)
        if near is None:
            self._sources.away(source, "does not answer")
            return
        behind = self._sources.behind(source)
        told = flight.size if not behind.peer else self._have(behind, flight)
        if told is None:
            self._sources.away(behind, "does not answer")
        after = Sample(time.monotonic(), flight.done, near, told, not behind.peer)
        if self._before is None or self._before[0] is not flight:
            self._before = flight, after
            return
        before = self._before[1]
        if after.at - before.at < 2 * TICK_S:
            return
        self._before = flight, after
        verdict = judge(self._best, before, after)
        if verdict is Verdict.PROBE:
            rate = (after.mine - before.mine) / (after.at - before.at)
            verdict = Verdict.LEAVE if self._measure(behind, flight) > SHARE * rate else Verdict.STAY
        if verdict is Verdict.LEAVE and source.state is State.UP:
            self._sources.away(source, "became too slow", wait_s=SLOW_WAIT_S)

    def _routine(self, source: Source, flight: Flight, rate: float) -> None:
        """A source that was slow from the beginning does not stand out by itself: try the one behind it now and then."""
        behind = self._sources.behind(source)
        told = flight.size if not behind.peer else self._have(behind, flight)
        if told is not None and told - flight.done > BACKLOG and self._measure(behind, flight) > SHARE * rate:
            self._sources.away(source, "is too slow", wait_s=SLOW_WAIT_S)
