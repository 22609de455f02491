"""A node as a link of the chain: it offers what it has, takes from its neighbours, and says from whom everything came."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import urllib3

from engine import pace
from engine.blobs import Blobs
from engine.download import WORKERS, Item
from engine.errors import ApplianceError
from engine.neighbours import Neighbourly
from engine.pieces import LEAST, Pieces, list_length, trim
from engine.relay import Offer
from engine.report import Report
from engine.sources import Source, Sources
from engine.trust import Target


class Opener(Protocol):
    """Whoever runs the relay."""

    def open(self, offer: Offer) -> bool:
        """Serve this until ``close``; False where that cannot be."""

    def close(self) -> bool:
        """Stop; whether there was anything to stop."""


@dataclass(frozen=True)
class Passed:
    """What a fetch did. ``moved`` has bytes by source, ``left`` what became of those that were given up."""

    moved: dict[str, int]
    relaying: bool
    left: list[str]


class Chain:
    """The neighbours of this node.

    Args:
        upstream: addresses of nodes to take from, nearest first.
        port: of their relays.
        opener: runs this node's own relay, which stays open when the fetch succeeded.
    """

    def __init__(self, upstream: Sequence[str], port: int, opener: Opener) -> None:
        self._upstream = upstream
        self._port = port
        self._opener = opener

    def fetch(
        self,
        blobs: Blobs,
        pool: urllib3.PoolManager,
        url: str,
        items: Sequence[Item],
        wanted: Sequence[Target],
        report: Report,
        watch: pace.Watch | None = None,
    ) -> Passed:
        """Bring ``items`` and offer ``wanted``, which holds them, meanwhile.

        Args:
            url: address of the release on the depot.
            watch: keeps what comes to a pace.

        Raises:
            TrustError: the depot's own bytes are wrong.
            UpstreamError: the depot does not answer.
            ResourceError: the disk is full.
        """
        parts = urlsplit(url)
        known = _lists(pool, f"{parts.scheme}://{parts.netloc}/pieces", [i for i in items if i.size >= LEAST])
        for sha256, pieces in known.items():
            trim(blobs, sha256, pieces)
        depot = Source("depot", url, peer=False)
        sources = Sources([Source(a, f"https://{_host(a)}:{self._port}") for a in self._upstream], depot)
        relaying = self._open(Offer({t.sha256: t.size for t in wanted}, frozenset(known)), sources)
        try:
            whole = frozenset(i.sha256 for i in items if i.size < LEAST)
            loader = Neighbourly(blobs, pool, sources, known, whole, report, watch)
            with loader.watched():
                loader.fetch_all(items, task="fetch")
        except BaseException:
            if relaying:
                self._opener.close()
            raise
        return Passed({s.name: s.moved for s in sources.all if s.moved}, relaying, sources.left)

    def _open(self, offer: Offer, sources: Sources) -> bool:
        """A node that cannot relay still takes; the rest of the chain goes around it."""
        try:
            return self._opener.open(offer)
        except ApplianceError as error:
            sources.left.append(f"this node does not relay: {error}")
            return False


def _lists(pool: urllib3.PoolManager, base: str, items: Sequence[Item]) -> dict[str, Pieces]:
    """The depot's lists of pieces, as many as it has."""

    def ask(item: Item) -> tuple[str, Pieces | None]:
        try:
            response = pool.request("GET", f"{base}/{item.sha256}", preload_content=False)
            try:
                longest = list_length(item.size)
                raw = response.read(longest + 1, decode_content=False) if response.status == 200 else b""
            finally:
                response.close()
            return item.sha256, Pieces(raw, item.size)
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return item.sha256, None

    with ThreadPoolExecutor(WORKERS) as askers:
        return {sha256: pieces for sha256, pieces in askers.map(ask, items) if pieces is not None}


def _host(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
