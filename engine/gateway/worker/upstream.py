"""HTTP to the model servers: one pool of connections a replica, over a unix socket or TLS with a client certificate.

A request is sent once. Only a connection that could not be made is tried elsewhere: what was sent may have been accepted, and a second
generation would be paid for twice. A reader that is slow stops the sender: no more than ``BUFFER`` bytes wait here.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools

from engine.gateway.configuration import Replica

BUFFER = 64 << 10
MAX_HEADERS = 64 << 10
IDLE_S = 3.0  # vLLM closes after 5 s; a connection that it may be closing is not used
MAX_IDLE = 256


class UnreachableError(Exception):
    """No connection could be made, so nothing was sent."""


class BrokenError(Exception):
    """The connection broke, or what came is not HTTP. The request may have been accepted."""


class Connection(asyncio.Protocol):
    """One connection; it carries one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._size = self._header_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._paused = self.complete = self.started = False
        self._error: BrokenError | None = None
        self.headers: dict[str, str] = {}

    @property
    def prefix(self) -> str:
        """What stands before every path of this model server."""
        return self._pool.prefix

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing() and self._error is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection ended early")
        self._pool.lost(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("an answer that is not HTTP")
            self._transport.abort()

    # What httptools calls.
    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADERS:
            raise ValueError("too many headers")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self.started = True
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self.started:
            self.complete = True
            self._wake()

    async def send(self, head: bytes, body: bytes) -> int:
        """Send a request and wait for the status of the answer.

        Raises:
            BrokenError: there was none.
        """
        self._transport.write(head + body)
        while not self.started:
            await self._wait()
        return self._parser.get_status_code()

    async def read(self) -> bytes:
        """What came since the last time, or nothing at the end.

        Raises:
            BrokenError: the answer ended early.
        """
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def done(self) -> None:
        """Give the connection back; one whose answer was not read to its end is closed, which tells the model server to stop."""
        if self.complete and not self._chunks and self.usable and self._parser.should_keep_alive():
            self._reset()
            self._pool.keep(self)
        else:
            self._transport.abort()

    def close(self) -> None:
        self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        if self._error is None:
            self._error = BrokenError(why)
        self._wake()


class Pool:
    """Connections to one replica."""

    def __init__(self, replica: Replica) -> None:
        self._parts = urlsplit(replica.url)
        self._host, self._port = self._parts.hostname or "", self._parts.port or 0
        self._name = replica.server_name or self._host
        self.prefix = "" if self._parts.scheme == "unix" else self._parts.path.rstrip("/")
        self._tls: ssl.SSLContext | None = None
        if self._parts.scheme == "https":
            self._tls = ssl.create_default_context(cafile=str(replica.ca))
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
            # systemd hands each worker its credentials in a directory of its own, so a shared configuration names them without one.
            here = Path(os.environ.get("CREDENTIALS_DIRECTORY", ""))
            self._tls.load_cert_chain(here / str(replica.certificate), here / str(replica.key))
        self._idle: deque[Connection] = deque()

    async def connect(self, timeout_s: float) -> Connection:
        """A connection, kept or new.

        Raises:
            UnreachableError: none could be made in time.
        """
        loop = asyncio.get_running_loop()
        while self._idle:
            found = self._idle.pop()
            if found.usable and loop.time() - found.idle_since < IDLE_S:
                return found
            found.close()
        try:
            async with asyncio.timeout(timeout_s):
                if self._parts.scheme == "unix":
                    _, made = await loop.create_unix_connection(lambda: Connection(self), self._parts.path)
                else:
                    _, made = await loop.create_connection(
                        lambda: Connection(self),
                        self._host,
                        self._port,
                        ssl=self._tls,
                        server_hostname=self._name if self._tls else None,
                    )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            raise UnreachableError(type(error).__name__) from None
        return made

    def keep(self, connection: Connection) -> None:
        """Take a connection back that may be used again."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._idle.popleft().close()

    def lost(self, connection: Connection) -> None:
        """A connection ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()


def head_of(path: str, length: int, headers: Mapping[str, str]) -> bytes:
    """The head of a request; nothing of it comes from a client."""
    lines = [f"POST {path} HTTP/1.1", "host: appliance", "content-type: application/json", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
