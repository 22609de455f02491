"""Many requests at once over unix sockets, written by hand: a client library would send them one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httptools


class Answer:
    """What came back of one request."""

    def __init__(self) -> None:
        self.status, self.body, self.headers, self.complete = 0, b"", dict[str, str](), False
        self._parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def json(self) -> Any:
        return json.loads(self.body)


def request(body: Any, key: str, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """The bytes of a request."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: appliance",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(raw)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + raw


async def one(socket: Path, raw: bytes) -> Answer:
    """Send one request and read its answer, or what came before the connection ended."""
    answer = Answer()
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return answer
    try:
        writer.write(raw)
        while not answer.complete and (data := await reader.read(1 << 16)):
            answer.feed(data)
    except OSError:
        pass
    finally:
        writer.close()
    return answer


async def all_at_once(sockets: Sequence[Path], requests: Sequence[bytes]) -> list[Answer]:
    """Send all requests at once, spread over the sockets."""
    return await asyncio.gather(*(one(sockets[i % len(sockets)], raw) for i, raw in enumerate(requests)))
