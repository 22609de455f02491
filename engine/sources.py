"""Where a node takes content from: its neighbours, nearest first, and the depot behind them all.

The first that is up is used. One that does not answer or has become too slow is set aside and asked again later; one that served wrong
bytes is out for good. Whoever sets a source aside cuts what is in flight from it, and each transfer goes on elsewhere where it stopped.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import urllib3

FIRST_WAIT_S, LONGEST_WAIT_S, SLOW_WAIT_S = 0.5, 15.0, 30.0
START_S = 30.0  # nodes of one run start within this; until then one that is not up yet is asked again soon
SHARE = 4  # a source is slow when it brings less than 1 / SHARE of what was seen before
BACKLOG = 8 << 20  # bytes; what a healthy neighbour has and has not sent yet is below this


class State(Enum):
    UP = "up"
    AWAY = "away"  # asked again later
    OUT = "out"  # for good


@dataclass(eq=False)
class Source:
    """A neighbour or the depot. ``base`` is its address as a URL; ``moved`` counts bytes that came from it and were right."""

    name: str
    base: str
    peer: bool = True
    state: State = State.UP
    moved: int = 0
    wait_s: float = FIRST_WAIT_S
    again_at: float = 0.0


@dataclass(eq=False)
class Flight:
    """One transfer under way. ``done`` is how much of the blob is here, in bytes."""

    source: Source
    sha256: str
    size: int
    done: int
    since: float = field(default_factory=time.monotonic)
    response: urllib3.BaseHTTPResponse | None = None
    cut: bool = False


class Sources:
    """The list and what is in flight from whom. Safe to use from several threads."""

    def __init__(self, peers: Sequence[Source], depot: Source) -> None:
        self.all = (*peers, depot)
        self.depot = depot
        self.left: list[str] = []  # who was left and why, for people
        self._flights: set[Flight] = set()
        self._lock = threading.Lock()
        self._begun = time.monotonic()

    def pick(self, skip: frozenset[Source] = frozenset()) -> Source:
        """The nearest that is up; the depot when none is."""
        with self._lock:
            return next((s for s in self.all if s.state is State.UP and s not in skip), self.depot)

    def behind(self, source: Source) -> Source:
        """The one that would be used in its place."""
        later = self.all[self.all.index(source) + 1 :]
        return next((s for s in later if s.state is State.UP), self.depot)

    def due(self, now: float) -> list[Source]:
        """Sources to ask again: nearer than the one in use, and their time has come."""
        nearer = self.all[: self.all.index(self.pick())]
        return [s for s in nearer if s.state is State.AWAY and now >= s.again_at]

    @contextlib.contextmanager
    def flying(self, source: Source, sha256: str, size: int, done: int) -> Iterator[Flight]:
        """Register a transfer while it runs."""
        flight = Flight(source, sha256, size, done)
        with self._lock:
            self._flights.add(flight)
        try:
            yield flight
        finally:
            with self._lock:
                self._flights.discard(flight)

    def took(self, flight: Flight, n_bytes: int) -> None:
        """Bytes of a transfer arrived and were right."""
        with self._lock:
            flight.done += n_bytes
            flight.source.moved += n_bytes

    def in_flight(self, source: Source) -> list[Flight]:
        with self._lock:
            return [f for f in self._flights if f.source is source]

    def away(self, source: Source, why: str, *, wait_s: float = 0.0) -> None:
        """Set a source aside for a while, longer each time."""
        with self._lock:
            if not source.peer or source.state is not State.UP:
                return
            now = time.monotonic()
            early = now - self._begun < START_S and not source.moved
            source.wait_s = (
                FIRST_WAIT_S if early else max(wait_s, min(source.wait_s * 2, LONGEST_WAIT_S), source.wait_s)
            )
            source.state, source.again_at = State.AWAY, now + source.wait_s
            if not early:
                self._note(f"{source.name} {why}")
        self._cut(lambda f: f.source is source)

    def still_away(self, source: Source) -> None:
        """It was asked again and is not there yet."""
        with self._lock:
            if time.monotonic() - self._begun > START_S:
                source.wait_s = min(source.wait_s * 2, LONGEST_WAIT_S)
            source.again_at = time.monotonic() + source.wait_s

    def back(self, source: Source) -> None:
        """It answers (again): whatever comes from farther away moves to it, for the farther one has others to feed."""
        with self._lock:
            if source.state is not State.AWAY:
                return
            source.state = State.UP
        place = self.all.index(source)
        self._cut(lambda f: self.all.index(f.source) > place)

    def out(self, source: Source, why: str) -> None:
        """Never ask it again in this run."""
        with self._lock:
            if not source.peer:
                return
            source.state = State.OUT
            self._note(f"{source.name} {why}")
        self._cut(lambda f: f.source is source)

    def _note(self, said: str) -> None:
        if said not in self.left:
            self.left.append(said)

    def _cut(self, which: object) -> None:
        with self._lock:
            hit = [f for f in self._flights if which(f)]  # type: ignore[operator]
        for flight in hit:
            flight.cut = True
            cut(flight.response)


def cut(response: urllib3.BaseHTTPResponse | None) -> None:
    """End a transfer that another thread is reading: it sees the end of the connection."""
    sock = getattr(getattr(response, "connection", None), "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which would take the TLS state away under the reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Verdict(Enum):
    STAY = "stay"
    LEAVE = "leave"
    PROBE = "probe"  # only trying the one behind it can tell


@dataclass(frozen=True)
class Sample:
    """One look at one blob: bytes here, at the source in use and at the one behind it (None when that does not answer)."""

    at: float
    mine: int
    near: int
    behind: int | None
    behind_is_depot: bool


def judge(best: float, before: Sample, after: Sample) -> Verdict:
    """Whether the source in use is what makes things slow, from two looks at the same blob.

    When one node in a chain dies or slows down, all behind it starve at once. Only the one right behind it may leave its source; the
    others' sources are as starved as they are and recover by themselves.

    Args:
        best: bytes a second that came at the best of times.
    """
    seconds = max(after.at - before.at, 1e-3)
    rate, grows = (after.mine - before.mine) / seconds, (after.near - before.near) / seconds
    if rate and rate >= best / SHARE:
        return Verdict.STAY
    if after.near - after.mine > BACKLOG:
        return Verdict.LEAVE
    if (grows and grows >= best / SHARE) or after.behind is None or before.behind is None:
        return Verdict.STAY
    if after.behind_is_depot:
        return Verdict.PROBE
    if (after.behind - before.behind) / seconds > SHARE * grows and after.behind - after.near > best / 2:
        return Verdict.LEAVE  # half a second's worth apart, and the gap grows
    return Verdict.PROBE if after.behind - after.near > BACKLOG else Verdict.STAY
