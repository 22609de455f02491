"""One downloader: resumable, bounded, hashed while it writes."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3

from engine.blobs import CHUNK, Blobs, Incoming, pieces
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from engine.report import Report, Silent

RETRIES = 4
WORKERS = 8
NOT_ALONG_REDIRECTS = (*urllib3.Retry.DEFAULT_REMOVE_HEADERS_ON_REDIRECT, "X-Amz-Security-Token")
TIMEOUT = urllib3.Timeout(connect=20, read=60)  # seconds


@dataclass(frozen=True)
class Item:
    """One file to get: ``name`` is for messages, ``size`` is in bytes."""

    name: str
    url: str
    sha256: str
    size: int


def http_pool(url: str) -> urllib3.PoolManager:
    """A connection pool for ``url`` that honours the proxy variables of the environment."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, maxsize=WORKERS, timeout=TIMEOUT)
    return urllib3.PoolManager(maxsize=WORKERS, timeout=TIMEOUT)


class Downloader:
    """Brings items into a store.

    Args:
        pool: connections to use for every URL (a node passes one with its client certificate);
            None picks one per scheme and host from the environment.
        headers: more headers for a URL, for sources that want a token; never sent along a redirect to another host.
    """

    def __init__(
        self,
        blobs: Blobs,
        *,
        pool: urllib3.PoolManager | None = None,
        report: Report | None = None,
        headers: Callable[[str], dict[str, str]] = lambda _url: {},
    ) -> None:
        self._blobs = blobs
        self._pool = pool
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._report = report or Silent()
        self._headers = headers

    def fetch_all(self, items: Iterable[Item], *, task: str = "fetch") -> int:
        """Bring all items in, in parallel. Stops at the first failure and raises it; what arrived stays.

        Returns:
            The number of bytes that travelled.
        """
        wanted = {i.sha256: i for i in items if not self._blobs.has(i.sha256, i.size)}.values()
        if not wanted:
            return 0
        self._report.begin(task, sum(i.size for i in wanted))
        with ThreadPoolExecutor(WORKERS) as workers:
            # Largest first: the last one running is then a short one.
            jobs: list[Future[int]] = [
                workers.submit(self.fetch, i, task) for i in sorted(wanted, key=lambda i: -i.size)
            ]
            done, waiting = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in waiting:
                job.cancel()
        moved = sum(j.result() for j in done)
        self._report.end(task)
        return moved

    def fetch(self, item: Item, task: str = "fetch") -> int:
        """Bring one item in; returns the bytes that travelled.

        Raises:
            TrustError: the source serves other bytes than promised.
            UpstreamError: it is gone or does not answer.
        """
        try:
            with self._blobs.incoming(item.sha256, item.size) as incoming:
                self._report.advance(task, incoming.done)
                start = incoming.done
                if not incoming.complete:
                    if urlsplit(item.url).scheme == "file":
                        self._copy(item, incoming, task)
                    else:
                        self._get(item, incoming, task)
                return incoming.done - start
        except TrustError as error:
            raise TrustError(
                error.what,
                where=f"{item.name} from {public(item.url)}",
                remedy="The source changed or the transfer is tampered with. If the change is meant, lock again and review it.",
            ) from error

    def _copy(self, item: Item, incoming: Incoming, task: str) -> None:
        path = Path(unquote(urlsplit(item.url).path))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise UpstreamError(
                f"cannot read {item.name}: {error.strerror}", where=str(path), remedy="Restore the file or lock again."
            ) from error
        with os.fdopen(fd, "rb") as source:
            source.seek(incoming.done)
            for piece in pieces(source):
                incoming.write(piece)
                self._report.advance(task, len(piece))

    def _get(self, item: Item, incoming: Incoming, task: str) -> None:
        """GET with retries; every retry continues where the last attempt stopped."""
        reason = ""
        for _attempt in range(RETRIES):
            headers = {"Range": f"bytes={incoming.done}-"} if incoming.done else {}
            headers |= self._headers(item.url)
            try:
                with self.open(item.url, headers) as response:
                    if incoming.done and response.status != 206:
                        incoming.restart()
                    for chunk in response.stream(CHUNK, decode_content=False):
                        incoming.write(chunk)
                        self._report.advance(task, len(chunk))
                if incoming.complete:
                    return
                reason = f"the connection ended after {incoming.done} of {item.size} bytes"
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = str(error)
        raise UpstreamError(
            f"cannot fetch {item.name}: {reason}",
            where=public(item.url),
            remedy="Check the connection and run the same command again; it continues where it stopped.",
        )

    @contextmanager
    def open(self, url: str, headers: dict[str, str] | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        """An open response with a 2xx status.

        Raises:
            UpstreamError: any other status.
        """
        response = self._pool_for(url).request(
            "GET",
            url,
            headers={"Accept-Encoding": "identity", **(headers or {})},
            preload_content=False,
            retries=urllib3.Retry(
                connect=2, read=0, redirect=5, status=0, remove_headers_on_redirect=NOT_ALONG_REDIRECTS
            ),
        )
        try:
            if response.status // 100 != 2:
                raise UpstreamError(
                    f"the source answers {response.status}",
                    where=public(url),
                    remedy="The file is gone or needs credentials. If it moved, lock again.",
                )
            yield response
        finally:
            response.close()

    def length(self, url: str) -> int | None:
        """Bytes behind an address as its source tells them; None when it does not.

        Raises:
            UpstreamError: it does not answer.
        """
        with self._answer(url) as response:
            told = response.headers.get("Content-Length", "")
        return int(told) if re.fullmatch(r"[0-9]{1,18}", told) else None

    def read(self, url: str, limit: int) -> bytes:
        """A small document, at most ``limit`` bytes of it, as it is sent: packed, it could be of any size.

        Raises:
            UpstreamError: it does not answer.
        """
        with self._answer(url) as response:
            return bytes(response.read(limit, decode_content=False))

    @contextmanager
    def _answer(self, url: str) -> Iterator[urllib3.BaseHTTPResponse]:
        try:
            with self.open(url) as response:
                yield response
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UpstreamError(
                f"cannot read from the source: {error}", where=public(url), remedy="Check the connection and try again."
            ) from error

    def _pool_for(self, url: str) -> urllib3.PoolManager:
        if self._pool is not None:
            return self._pool
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise InputError(
                f"cannot fetch from a {parts.scheme or 'relative'} address",
                where=public(url),
                remedy="Use https, http or file.",
            )
        key = f"{parts.scheme}://{parts.netloc}"
        if key not in self._pools:
            self._pools[key] = http_pool(url)
        return self._pools[key]


def public(url: str) -> str:
    """The URL without user, password and query, fit for messages and locks."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host += f":{parts.port}"
    return parts._replace(netloc=host, query="", fragment="").geturl()


__all__ = ["ApplianceError", "Downloader", "Item", "http_pool", "public"]
