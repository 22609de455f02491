"""A worker's line to the ledger. When it breaks, running streams go on; what they settle is told when the ledger is back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from engine.gateway.ledger.wire import Frames, pack
from engine.gateway.worker.refusal import Refusal

log = logging.getLogger("appliance-gateway")
AGAIN_S = 0.1
MAX_UNTOLD = 200_000  # notes and settles that wait for the ledger
Payload = dict[str, Any]


def unavailable() -> Refusal:
    return Refusal(
        503, "unavailable", "The gateway cannot take new requests now; try again later.", headers={"retry-after": "5"}
    )


class LedgerClient:
    """Asks and tells the ledger; many questions at once.

    Attributes:
        owner: this process's name, under which the ledger keeps what it reserved.
    """

    def __init__(self, socket: Path, on_snapshot: Callable[[Payload], None], wait_s: float) -> None:
        self._socket, self._on_snapshot, self.wait_s = socket, on_snapshot, wait_s
        self.owner = secrets.token_hex(8)
        self._number = 0
        self._line: _Line | None = None
        self._connected = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        # Until they are answered; told again on another connection. All verbs may be repeated without harm.
        self._unanswered: dict[int, tuple[str, Any]] = {}
        self.open: set[str] = set()

    async def run(self) -> None:
        """Keep connected, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                ended = loop.create_future()
                _, line = await loop.create_unix_connection(lambda: _Line(self, ended), str(self._socket))  # noqa: B023  # used at once
                self._begin(line)
                await ended
                self._connected.clear()
                self._line = None
                log.warning("the connection to the ledger ended; new requests wait")
            await asyncio.sleep(AGAIN_S)

    def _begin(self, line: _Line) -> None:
        self._line = line
        # What ended meanwhile is about to be settled by what follows, so it is not lost.
        settled = {asked["rid"] for verb, asked in self._unanswered.values() if verb == "settle"}
        line.write(pack([self._next(), "hello", {"owner": self.owner, "open": sorted(self.open | settled)}]))
        line.write(b"".join(pack([number, verb, asked]) for number, (verb, asked) in self._unanswered.items()))
        self._connected.set()

    async def reserve(self, asked: Payload) -> Payload:
        """Reserve, and wait for a slot.

        Raises:
            Refusal: the ledger is away.
        """
        self.open.add(asked["rid"])
        told: Payload = await self._ask("reserve", asked)
        return told

    def settle(self, rid: str, tokens: int, facts: Payload) -> None:
        """Tell what a request used. Never waits, so it may be called wherever a request ends."""
        self.open.discard(rid)
        self._tell("settle", {"rid": rid, "tokens": tokens, "facts": facts})

    def note(self, entry: Payload) -> None:
        """Have a line written that changes no counter."""
        self._tell("note", entry)

    def unreachable(self, model: str, replica: int) -> None:
        """Tell that a replica does not take connections."""
        self._tell("unreachable", [model, replica])

    async def budget(self, entry: Payload) -> Payload:
        """What is left for a credential.

        Raises:
            Refusal: the ledger is away.
        """
        told: Payload = await self._ask("budget", entry)
        return told

    async def probe(self, kind: str) -> Payload:
        """What the ledger tells when a limit of this kind is used up; no counter changes."""
        told: Payload = await self._ask("probe", kind)
        return told

    async def _ask(self, verb: str, asked: Any) -> Any:
        if not self._connected.is_set():
            try:
                async with asyncio.timeout(self.wait_s):
                    await self._connected.wait()
            except TimeoutError:
                raise unavailable() from None
        number = self._tell(verb, asked)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            return await answer
        finally:
            self._answers.pop(number, None)
            self._unanswered.pop(number, None)

    def _tell(self, verb: str, asked: Any) -> int:
        number = self._next()
        if verb == "note" and len(self._unanswered) >= MAX_UNTOLD:
            return number  # the ledger has been away for long; lines of refused requests are the least loss
        self._unanswered[number] = (verb, asked)
        if self._line is not None:
            self._line.write(pack([number, verb, asked]))
        return number

    def heard(self, message: Any) -> None:
        """An answer, or a snapshot that was pushed."""
        if message[0] == 0:
            self._on_snapshot(message[2])
            return
        number, payload = message
        self._unanswered.pop(number, None)
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(payload)

    def _next(self) -> int:
        self._number += 1
        return self._number


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, client: LedgerClient, ended: asyncio.Future[None]) -> None:
        self._client, self._ended, self._frames = client, ended, Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._client.heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def write(self, raw: bytes) -> None:
        self._transport.write(raw)
