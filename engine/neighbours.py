"""The downloader of a node that has neighbours: every blob from the nearest that has it, checked piece by piece as it arrives."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

import urllib3

from engine import pace
from engine.blobs import Blobs, Incoming
from engine.download import RETRIES, TIMEOUT, Downloader, Item
from engine.durable import disk_errors
from engine.errors import TrustError, UpstreamError
from engine.pieces import PIECE, Pieces
from engine.relay import HAVE
from engine.report import Report
from engine.sources import Flight, Source, Sources
from engine.watch import PROBE, Watch

ASK_S = 1.0  # a neighbour that takes longer to say what it has does not answer
PEER = urllib3.Timeout(connect=2, read=30)  # seconds; the watch is faster, this is behind it
NONE = urllib3.Retry(0, redirect=0)


class Neighbourly(Downloader):
    """Takes blobs from ``sources``.

    Args:
        known: lists of pieces by SHA-256. A large blob without one comes from the depot alone.
        whole: blobs so short that they are passed on whole.
    """

    def __init__(
        self,
        blobs: Blobs,
        pool: urllib3.PoolManager,
        sources: Sources,
        known: Mapping[str, Pieces],
        whole: frozenset[str],
        report: Report | None = None,
        watch: pace.Watch | None = None,
    ) -> None:
        super().__init__(blobs, pool=pool, report=report, watch=watch)
        self._net = pool
        self._sources = sources
        self._known = known
        self._whole = whole
        self._direct: set[str] = set()
        self._givers: dict[str, set[Source]] = {}
        self._urls: dict[str, str] = {}

    def watched(self) -> Watch:
        """The watch that belongs to it, for the time of ``fetch_all``."""
        return Watch(self._sources, self._have, self._measure)

    def fetch(self, item: Item, task: str = "fetch") -> int:
        """One blob, and once more from the depot itself when a neighbour's was wrong; that neighbour is out.

        Raises:
            TrustError: the depot serves other bytes than are signed.
            UpstreamError: it does not answer.
            ResourceError: the disk is full.
        """
        givers = self._givers[item.sha256] = set()
        self._urls[item.sha256] = item.url
        try:
            return super().fetch(item, task)
        except TrustError:
            if item.sha256 in self._known or not any(s.peer for s in givers):
                raise
            for source in givers:
                self._sources.out(source, f"served wrong bytes of {item.name}")
            self._direct.add(item.sha256)
            return super().fetch(item, task)

    def _get(self, item: Item, incoming: Incoming, task: str) -> None:
        skip: frozenset[Source] = frozenset()
        failures, reason = 0, ""
        if item.sha256 in self._direct or not (item.sha256 in self._known or item.sha256 in self._whole):
            skip = frozenset(s for s in self._sources.all if s.peer)
        while not incoming.complete:
            if self._watch:
                self._watch.check()
            source = self._sources.pick(skip)
            before = incoming.done
            with self._sources.flying(source, item.sha256, item.size, incoming.done) as flight:
                try:
                    if not self._stream(flight, item, incoming, task):
                        skip |= {source}
                        if not source.peer:
                            reason = "it is not there"
                except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                    reason = str(error)
                    if source.peer and not flight.cut:
                        self._sources.away(source, "broke off" if incoming.done > before else "does not answer")
            if incoming.complete:
                return
            failures = 0 if source.peer or flight.cut or incoming.done > before else failures + 1
            if failures >= RETRIES:
                raise UpstreamError(
                    f"cannot fetch {item.name}: {reason}",
                    where=item.url,
                    remedy="Check the connection and run the same command again; it continues where it stopped.",
                )

    def _stream(self, flight: Flight, item: Item, incoming: Incoming, task: str) -> bool:
        """Whatever one answer brings; False when the source does not have the blob on offer."""
        source, known = flight.source, self._known.get(item.sha256)
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={incoming.done}-"} if incoming.done else {})}
        address = f"{source.base}/sha256/{item.sha256}" if source.peer else item.url
        waited = Item(item.name, source.base if source.peer else item.url, item.sha256, item.size)  # for, and for whom
        with self._waiting(waited):
            response = self._net.request(
                "GET",
                address,
                headers=headers,
                preload_content=False,
                retries=NONE,
                timeout=PEER if source.peer else TIMEOUT,
            )
        flight.response = response
        try:
            if response.status not in (200, 206) or (incoming.done and response.status != 206):
                return False
            while not incoming.complete and not flight.cut:
                wanted = min(PIECE, item.size - incoming.done)
                with self._waiting(waited):
                    piece = response.read(wanted, decode_content=False)
                if self._watch:
                    self._watch.moved(len(piece))
                if len(piece) < wanted:
                    raise ConnectionError("the connection ended")
                if known and not known.right(incoming.done, piece):
                    self._wrong(source, item)
                    return True
                with disk_errors(self._blobs.root):
                    incoming.write(piece)
                    incoming.show()
                self._givers[item.sha256].add(source)
                self._sources.took(flight, len(piece))
                self._report.advance(task, len(piece))
        finally:
            if response.length_remaining == 0:
                response.release_conn()
            else:
                response.close()
        return True

    def _wrong(self, source: Source, item: Item) -> None:
        if source.peer:
            self._sources.out(source, f"served wrong bytes of {item.name}")
            return
        raise TrustError(
            "the depot's content and its list of pieces differ; remove its directory pieces, it is made anew"
        )

    def _have(self, source: Source, flight: Flight) -> int | None:
        try:
            response = self._net.request(
                "HEAD", f"{source.base}/sha256/{flight.sha256}", retries=NONE, timeout=urllib3.Timeout(ASK_S)
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return None
        told = response.headers.get(HAVE, "0")
        return int(told) if told.isdecimal() and len(told) < 19 else None

    def _measure(self, source: Source, flight: Flight) -> float:
        """Bytes a second of a short piece of the blob from another source; what came is thrown away."""
        first, begin, got = flight.done, time.monotonic(), 0
        last = min(first + PROBE, flight.size)
        address = f"{source.base}/sha256/{flight.sha256}" if source.peer else self._urls[flight.sha256]
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError, ValueError):
            response = self._net.request(
                "GET", address, headers={"Range": f"bytes={first}-"}, preload_content=False, retries=NONE,
                timeout=urllib3.Timeout(connect=ASK_S, read=ASK_S),
            )  # fmt: skip
            try:
                while response.status == 206 and got < last - first and (piece := response.read(64 << 10)):
                    got += len(piece)
            finally:
                response.close()
        return got / max(time.monotonic() - begin, 1e-3)
