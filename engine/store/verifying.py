"""One pass over a store: hash every blob again, slowly, and set aside what is not what its name says.

A blob's name is the SHA-256 that signed metadata gave it, so the name is all that is needed to judge it. A bad blob loses its names in
views first and is then moved to ``blobs/quarantine``: a service that has it open goes on, none can be started with it, and the next
fetch finds it missing and brings it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from engine import durable
from engine.blobs import Blobs, hash_stream
from engine.report import Report, Silent
from engine.store import holdings
from engine.store.state import Bad, Pass, State

SAVE_S = 2.0  # seconds between two records of how far the pass is


class StopError(Exception):
    """The pass was asked to stop; what is done is kept."""


@dataclass
class Pace:
    """Holds the reader to ``rate`` bytes a second (0: no limit), and ends it at ``deadline`` or when ``asked`` says so."""

    rate: int = 0
    deadline: float = float("inf")
    asked: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._begin, self._done = self.clock(), 0

    def advance(self, n_bytes: int) -> None:
        """Count ``n_bytes`` and wait until they were allowed.

        Raises:
            StopError: it is time to end.
        """
        self._done += n_bytes
        ahead = self._done / self.rate - (self.clock() - self._begin) if self.rate else 0
        if ahead > 0:
            self.sleep(ahead)
        if self.asked() or self.clock() > self.deadline:
            raise StopError


class Verifier:
    """Verifies the store below ``store`` (``blobs/`` and ``views/``) and keeps its record at ``record``.

    Args:
        serving: the node's services, to say whom a bad blob touches.
        keep: called with every state that is kept, for those who watch.
    """

    def __init__(
        self,
        store: Path,
        record: Path,
        *,
        serving: list[holdings.Service] | None = None,
        keep: Callable[[State], None] = lambda _: None,
        report: Report | None = None,
    ) -> None:
        self._blobs = Blobs(store / "blobs")
        self._views = store / "views"
        self._record = record
        self._serving = serving or []
        self._watch = keep
        self._report = report or Silent()

    def run(self, state: State, pace: Pace) -> State:
        """Go on with the running pass, or begin one; returns the state when the pass is complete or was stopped."""
        state = replace(state, bad=tuple(b for b in state.bad if not self._blobs.has(b.sha256, b.size)))
        going = state.running or Pass(started=_now())
        saved = 0.0
        try:
            for sha256 in holdings.blobs(self._blobs.root):
                if sha256 <= going.cursor:
                    continue
                state, size = self._one(replace(state, running=going), sha256, pace)
                going = replace(going, cursor=sha256, files=going.files + 1, size=going.size + size)
                state = replace(state, running=going, total=state.total + size)
                if time.monotonic() - saved > SAVE_S:
                    self._keep(state)
                    saved = time.monotonic()
        except StopError:
            state = replace(state, running=going)
        else:
            state = replace(state, last=replace(going, ended=_now(), cursor=""), running=None)
        self._keep(state)
        return state

    def _keep(self, state: State) -> None:
        state.write(self._record)
        self._watch(state)

    def _one(self, state: State, sha256: str, pace: Pace) -> tuple[State, int]:
        """The state after this blob, and its length in bytes."""
        path = self._blobs.path(sha256)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return state, 0  # collected since the list was made
        with os.fdopen(fd, "rb", buffering=0) as file:
            info = os.fstat(fd)
            # What is in memory says nothing about the disk, and what is read here must not push out what is served.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                found, _ = hash_stream(file, pace.advance)
            except OSError as error:
                found = f"cannot be read: {error.strerror}"
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return state if found == sha256 else self._set_aside(state, sha256, found, info), info.st_size

    def _set_aside(self, state: State, sha256: str, found: str, info: os.stat_result) -> State:
        """Names first, the blob last: if this is cut short, the next pass finds the blob again and the rest is done then."""
        paths = holdings.names(self._views).get(info.st_ino, [])
        for path in paths:
            (self._views / path).unlink(missing_ok=True)
            durable.sync_dir((self._views / path).parent)
        quarantine = self._blobs.root / "quarantine"
        quarantine.mkdir(mode=0o700, exist_ok=True)
        kept = quarantine / f"{sha256}.{datetime.now(UTC):%Y%m%dT%H%M%S}"
        blob = self._blobs.path(sha256)
        blob.rename(kept)
        durable.sync_dir(quarantine)
        durable.sync_dir(blob.parent)
        services = holdings.touched(paths, self._views, self._serving)
        bad = Bad(sha256, found, info.st_size, _now(), str(kept), tuple(paths), tuple(services))
        self._report.say(
            f"{', '.join(paths) or sha256} is not what was signed (SHA-256 {found}); it was set aside as {kept}. "
            f"Services that read it: {', '.join(services) or 'none'}. Run the install again, which fetches it anew."
        )
        state = replace(state, bad=(*(b for b in state.bad if b.sha256 != sha256), bad))
        self._keep(state)  # before anything else happens: somebody must know
        return state


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
