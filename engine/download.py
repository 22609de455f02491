"""One downloader: resumable, bounded, hashed while it writes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urljoin, urlsplit

import urllib3

from engine import interruption
from engine.addresses import public, without_login
from engine.blobs import CHUNK, Blobs, Incoming, pieces
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from engine.pace import Watch
from engine.report import Report, Silent

RETRIES = 4
WORKERS = 8
REDIRECTS = 5
# Sent to the host they are meant for, and not to another that it redirects to.
NOT_ALONG_REDIRECTS = frozenset({"authorization", "cookie", "proxy-authorization", "x-amz-security-token"})
TIMEOUT = urllib3.Timeout(connect=20, read=60)  # seconds


@dataclass(frozen=True)
class Item:
    """One file to get: ``name`` is for messages, ``size`` is in bytes."""

    name: str
    url: str
    sha256: str
    size: int


class Route(Protocol):
    """How the outside is reached. Implementations must be safe to use from several threads."""

    def pool(self, url: str) -> urllib3.PoolManager:
        """Connections for an address."""

    def login(self, url: str) -> dict[str, str]:
        """Headers that log in at an address; empty when it wants none."""


class Direct:
    """One pool for every address, and no logins: what a node has. Without a pool, one that trusts the system's CAs.

    No proxy, netrc or variable of the environment is ever asked.
    """

    def __init__(self, pool: urllib3.PoolManager | None = None) -> None:
        self._pool = pool or urllib3.PoolManager(maxsize=WORKERS, timeout=TIMEOUT)

    def pool(self, url: str) -> urllib3.PoolManager:
        return self._pool

    def login(self, url: str) -> dict[str, str]:
        return {}


class Downloader:
    """Brings items into a store.

    Args:
        pool: connections to use for every URL (a node passes one with its client certificate).
        route: in place of ``pool``, connections and logins by address (the builder's proxies, CA and netrc).
        headers: more headers for a URL, for sources that want a token; never sent along a redirect to another host.
        watch: keeps what comes to a pace; left out, only the timeouts of a connection count.
    """

    def __init__(
        self,
        blobs: Blobs,
        *,
        pool: urllib3.PoolManager | None = None,
        route: Route | None = None,
        report: Report | None = None,
        headers: Callable[[str], dict[str, str]] = lambda _url: {},
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._blobs = blobs
        self._route = route or Direct(pool)
        self._report = report or Silent()
        self._headers = headers
        self._open: set[urllib3.BaseHTTPResponse] = set()

    def fetch_all(self, items: Iterable[Item], *, task: str = "fetch") -> int:
        """Bring all items in, in parallel. Stops at the first failure and raises it; what arrived stays.

        Returns:
            The number of bytes that travelled.
        """
        wanted = {i.sha256: i for i in items if not self._blobs.has(i.sha256, i.size)}.values()
        if not wanted:
            return 0
        self._report.begin(task, sum(i.size for i in wanted))
        workers = ThreadPoolExecutor(WORKERS)
        # Largest first: the last one running is then a short one.
        jobs: list[Future[int]] = []
        try:  # from the first thread on: a signal may come while the others are started
            for item in sorted(wanted, key=lambda i: -i.size):
                jobs.append(workers.submit(self.fetch, item, task))
            done, waiting = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in waiting:
                job.cancel()
            workers.shutdown()
        except KeyboardInterrupt:
            # Nobody waits for a source that sends nothing; what its thread has written so far stays for the next time.
            workers.shutdown(wait=False, cancel_futures=True)
            self._cut()
            raise
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
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe does not stop us
        except OSError as error:
            raise UpstreamError(
                f"cannot read {item.name}: {error.strerror}", where=str(path), remedy="Restore the file or lock again."
            ) from error
        with os.fdopen(fd, "rb") as source:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UpstreamError(
                    f"cannot read {item.name}: not a regular file",
                    where=str(path),
                    remedy="Restore the file or lock again.",
                )
            source.seek(incoming.done)
            for piece in pieces(source):
                incoming.write(piece)
                self._report.advance(task, len(piece))

    def _get(self, item: Item, incoming: Incoming, task: str) -> None:
        """GET with retries; every retry continues where the last attempt stopped."""
        reason = ""
        for _attempt in range(RETRIES):
            interruption.stop_if_asked()
            headers = {"Range": f"bytes={incoming.done}-"} if incoming.done else {}
            headers |= self._headers(item.url)
            try:
                with ExitStack() as stack:
                    with self._waiting(item):
                        response = stack.enter_context(self.open(item.url, headers))
                    if incoming.done and response.status != 206:
                        incoming.restart()
                    body = response.stream(CHUNK, decode_content=False)
                    while chunk := self._next(item, body):
                        interruption.stop_if_asked()
                        incoming.write(chunk)
                        self._report.advance(task, len(chunk))
                if incoming.complete:
                    return
                reason = f"the connection ended after {incoming.done} of {item.size} bytes"
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = reason_of(error)
        raise UpstreamError(
            f"cannot fetch {item.name}: {reason}",
            where=public(item.url),
            remedy="Check the connection and run the same command again; it continues where it stopped.",
        )

    def _waiting(self, item: Item) -> AbstractContextManager[None]:
        return self._watch.waiting(item.name, public(item.url)) if self._watch else nullcontext()

    def _next(self, item: Item, body: Iterator[bytes]) -> bytes:
        """The next bytes of a body; nothing at its end."""
        with self._waiting(item):
            chunk = next((piece for piece in body if piece), b"")
        if self._watch:
            self._watch.moved(len(chunk))
        return chunk

    @contextmanager
    def open(self, url: str, headers: dict[str, str] | None = None) -> Iterator[urllib3.BaseHTTPResponse]:
        """An open response with a 2xx status.

        Raises:
            UpstreamError: any other status.
        """
        response = self._request(url, {"Accept-Encoding": "identity", **(headers or {})})
        try:
            if response.status // 100 != 2:
                raise UpstreamError(
                    f"the source answers {response.status}",
                    where=public(url),
                    remedy=REMEDIES.get(
                        response.status, "The file is gone or needs credentials. If it moved, lock again."
                    ),
                )
            self._open.add(response)
            interruption.stop_if_asked()  # after it was added: it is either cut or never waited for
            yield response
        finally:
            self._open.discard(response)
            response.close()

    def _cut(self) -> None:
        """End the waiting of every thread for more of an answer."""
        for response in list(self._open):
            with suppress(Exception):  # it has ended in this moment, in whichever way
                response.shutdown()

    def _request(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer at the end of at most ``REDIRECTS`` redirects, whose own bodies are never read.

        Each host is asked through its own proxy and with its own login, and what was meant for one is not told another.
        """
        first = url
        for _hop in range(REDIRECTS + 1):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise InputError(
                    f"cannot fetch from a {parts.scheme or 'relative'} address",
                    where=public(url),
                    remedy="Use https, http or file.",
                )
            # A login does not go in clear text because a source over TLS says so.
            login = {} if (parts.scheme, urlsplit(first).scheme) == ("http", "https") else self._route.login(url)
            known = {name.lower() for name in headers}
            response = self._route.pool(url).request(
                "GET",
                without_login(url),
                headers={**headers, **{k: v for k, v in login.items() if k.lower() not in known}},
                preload_content=False,
                redirect=False,
                retries=urllib3.Retry(connect=2, read=0, redirect=0, status=0),
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url, headers = _next(url, location, headers)
        raise UpstreamError(
            f"the source redirects more than {REDIRECTS} times", where=public(first), remedy="Correct the address."
        )

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
                f"cannot read from the source: {reason_of(error)}",
                where=public(url),
                remedy="Check the connection and try again.",
            ) from error


REMEDIES = {
    401: "Give this host a login for it: a line `machine HOST login USER password PASSWORD` in ~/.netrc (docs/fetching.md).",
    403: "The login is refused, or the file may not be read with it (docs/fetching.md).",
    407: "The proxy wants a login: give it in http_proxy and https_proxy as http://USER:PASSWORD@HOST:PORT (docs/fetching.md).",
}


def _next(url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Where a redirect leads, and what of the headers goes there."""
    try:
        target = urljoin(url, location)
        elsewhere, usable = _origin(target) != _origin(url), urlsplit(target).scheme in ("http", "https")
    except ValueError:
        elsewhere, usable, target = True, False, ""
    if not usable:
        raise UpstreamError(
            "the source redirects to something that is not a web address",
            where=public(url),
            remedy="Correct the address.",
        )
    return target, {k: v for k, v in headers.items() if not (elsewhere and k.lower() in NOT_ALONG_REDIRECTS)}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def reason_of(error: Exception) -> str:
    """What went wrong below, without the address: urllib3 repeats all of it, and a signature in it opens the file."""
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason:
        error = error.reason
    text = re.sub(r"([?&;][\w.~%-]+=)[^\s&;'\")]+", r"\1***", str(error))
    text = re.sub(r"://[^/\s@]*@", "://", text)
    return f"{text}. {REMEDIES[407]}" if "407 Proxy" in text else text


__all__ = ["ApplianceError", "Downloader", "Item", "public"]
