"""How slow a fetch may be: a lowest rate that must be kept up, and a deadline that follows from the size.

A source that sends a byte now and then keeps every timeout of a connection from running out. So a thread looks at what comes in over all
connections together, and ends them all when it is too little or takes too long; what arrived is kept for the next run.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import urllib3

from engine.errors import ApplianceError, UpstreamError

LOOKS = 40  # in a window
KIB = 1 << 10


@dataclass(frozen=True)
class Pace:
    """The slowest that is waited for.

    Attributes:
        lowest_rate: bytes a second that must come on average over ``window_s``, while anything is waited for.
        window_s: seconds.
        begin_s: seconds for all that does not grow with the size: connections, metadata, lists of pieces, other nodes that start later.
    """

    lowest_rate: int = 256 * KIB
    window_s: float = 120.0
    begin_s: float = 600.0

    def deadline_s(self, size: int) -> float:
        """Seconds that ``size`` bytes may take."""
        return self.begin_s + size / self.lowest_rate


class Pool(urllib3.PoolManager):
    """Connections that can all be ended at once, whatever they are doing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._responses: weakref.WeakSet[urllib3.BaseHTTPResponse] = weakref.WeakSet()
        self.pool_classes_by_scheme = {
            scheme: _tracking(kind, self._note) for scheme, kind in self.pool_classes_by_scheme.items()
        }

    def urlopen(self, *args: Any, **options: Any) -> urllib3.BaseHTTPResponse:
        response = super().urlopen(*args, **options)
        with self._lock:
            self._responses.add(response)
        return response

    def cut(self) -> None:
        """End every connection: whoever waits for one sees its end."""
        with self._lock:
            sockets = [*self._sockets, *(s for r in self._responses if (s := _socket_of(r)) is not None)]
        for one in sockets:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown, which would take the TLS state away under the reader.
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def _note(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.add(one)


def _tracking(kind: Any, note: Any) -> Any:
    """A pool of connections whose every socket is told to ``note``, before TLS begins on it."""

    class Connection(kind.ConnectionCls):  # type: ignore[misc]
        twin: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            self._close_twin()
            self.twin = made.dup()  # TLS takes the socket itself away
            note(self.twin)
            return made

        def close(self) -> None:
            super().close()
            self._close_twin()

        def _close_twin(self) -> None:
            twin, self.twin = self.twin, None
            if twin is not None:
                twin.close()

    class Connections(kind):  # type: ignore[misc]
        ConnectionCls = Connection

    return Connections


def _socket_of(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    """Where the rest of a body comes from when the connection has already let go of it (`Connection: close`)."""
    file = getattr(getattr(response, "_fp", None), "fp", None)
    found = getattr(getattr(file, "raw", None), "_sock", None)
    return found if isinstance(found, socket.socket) else None


@dataclass(eq=False)
class _Wait:
    """A transfer that waits for bytes."""

    name: str
    source: str


class Watch:
    """Keeps a fetch to its pace for the time of a block. Leaving it raises what it found, in place of what that led to.

    Raises:
        UpstreamError: too little came, or it took too long; names file, source and rate.
    """

    def __init__(self, pace: Pace, pool: urllib3.PoolManager, source: str) -> None:
        self._pace = pace
        self._pool = pool
        self._source = source
        self._deadline = time.monotonic() + pace.begin_s
        self._size = 0
        self._lock = threading.Lock()
        self._waits: list[_Wait] = []
        self._moved, self._active_s = 0, 0.0
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._end = threading.Event()
        self._failed: UpstreamError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._failed and isinstance(error, ApplianceError | OSError | urllib3.exceptions.HTTPError):
            raise self._failed from error

    def expect(self, size: int) -> None:
        """So many bytes are to come from now on: the deadline follows from them."""
        self._size = size
        self._deadline = time.monotonic() + self._pace.deadline_s(size)

    @contextlib.contextmanager
    def waiting(self, name: str, source: str) -> Iterator[None]:
        """A transfer waits for its source in this block, and for nothing else; disks that are slow are not the source's doing."""
        self.check()
        wait = self._begin(name, source)
        try:
            yield
        finally:
            with self._lock:
                self._waits.remove(wait)

    def moved(self, n_bytes: int) -> None:
        """Bytes arrived."""
        with self._lock:
            self._moved += n_bytes

    def check(self) -> None:
        """Raise what was found, so that nobody tries again."""
        if self._failed:
            raise self._failed

    def _begin(self, name: str, source: str) -> _Wait:
        with self._lock:
            wait = _Wait(name, source)
            self._waits.append(wait)
        return wait

    def _run(self) -> None:
        tick, last = self._pace.window_s / LOOKS, time.monotonic()
        while not self._end.wait(tick):
            now = time.monotonic()
            with self._lock:
                # A look that comes late, on a machine that was suspended or is busy, does not count for more.
                self._active_s += min(now - last, 2 * tick) if self._waits else 0.0
                last = now
                failed = self._judge(now)
            if failed:
                self._failed = failed
                if isinstance(self._pool, Pool):
                    while not self._end.is_set():  # again, for connections that were being made
                        self._pool.cut()
                        self._end.wait(tick)
                return

    def _judge(self, now: float) -> UpstreamError | None:
        remedy = (
            "Check the network and the source, and run the same command again: what arrived is kept. For a link that is this slow, "
            "lower the rate (appliance-engine fetch --lowest-rate, appliance_content_lowest_rate)."
        )
        if now > self._deadline:
            took = self._pace.deadline_s(self._size)
            return UpstreamError(
                f"the fetch did not end within {took:,.0f} s, which {self._size:,} bytes may take at {_rate(self._pace.lowest_rate)}"
                f"{self._who()}",
                where=self._source, remedy=remedy,
            )  # fmt: skip
        self._seen.append((self._active_s, self._moved))
        while len(self._seen) > 1 and self._active_s - self._seen[1][0] >= self._pace.window_s:
            self._seen.popleft()
        first_s, first = self._seen[0]
        span = self._active_s - first_s
        rate = (self._moved - first) / span if span else 0.0
        if self._size == 0 or span < self._pace.window_s or rate >= self._pace.lowest_rate:
            return None
        return UpstreamError(
            f"too little comes: {_rate(rate)} in the last {span:,.0f} s, and {_rate(self._pace.lowest_rate)} is the lowest rate"
            f"{self._who()}",
            where=self._source, remedy=remedy,
        )  # fmt: skip

    def _who(self) -> str:
        """The transfer that has waited longest."""
        return f"; waiting for {self._waits[0].name} from {self._waits[0].source}" if self._waits else ""


def _rate(rate: float) -> str:
    return f"{rate / KIB:,.1f} KiB/s"
