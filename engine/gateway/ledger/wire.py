"""What ledger and workers say to each other: JSON with its length before it, over a unix socket, many requests at once.

A message of a worker is ``[number, verb, payload]``, its answer ``[number, payload]``; number 0 is what the ledger says unasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

MAX_MESSAGE = 64 << 20


class Frames:
    """Cuts a byte stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are whole now.

        Raises:
            ValueError: a message is too large or not JSON.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= 4:
                size = int.from_bytes(self._buffer[at : at + 4], "big")
                if size > MAX_MESSAGE:
                    raise ValueError(f"a message of {size} bytes")
                if len(self._buffer) - at - 4 < size:
                    break
                message = orjson.loads(bytes(self._buffer[at + 4 : at + 4 + size]))
                at += 4 + size
                yield message
        finally:
            del self._buffer[:at]


def pack(message: Any) -> bytes:
    """A message as bytes."""
    raw = orjson.dumps(message)
    return len(raw).to_bytes(4, "big") + raw
