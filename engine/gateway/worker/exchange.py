"""One request from its headers to its audit line. Knows nothing of ASGI: it is given headers and body, and calls ``respond``.

Whatever ends it (the answer, the client, the model server, a revocation, a cancelled task), the reservation is settled in one place,
which does not wait for anything.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from engine.gateway.worker import upstream
from engine.gateway.worker.ledgerclient import LedgerClient
from engine.gateway.worker.policy import Policy, Subject
from engine.gateway.worker.prepare import Prepared, Terms
from engine.gateway.worker.refusal import Refusal, limit_headers, of_ledger
from engine.gateway.worker.streams import BrokenStream, Frames, Stream, Usage, reader, usage_of

PATHS = {
    "/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings", "/v1/rerank": "rerank", "/v1/score": "score",
    "/v1/responses": "responses", "/v1/messages": "messages", "/tokenize": "tokenize",
}  # fmt: skip
UPSTREAM = {endpoint: path for path, endpoint in PATHS.items()}
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
JSON = {"content-type": "application/json"}
LAST_WORD_S = 5.0


class Respond(Protocol):
    """How an answer leaves; each call waits until the client took enough of what was sent before."""

    async def start(self, status: int, headers: dict[str, str]) -> None: ...
    async def send(self, data: bytes, *, more: bool) -> None: ...


Prepare = Callable[[bytes, str, Terms], Awaitable[Prepared]]


@dataclass
class Facts:
    """What the audit line says of how it went."""

    status: int = 0
    outcome: str = ""
    code: str = ""
    replica: int | None = None
    attempts: int = 0
    began: float = field(default_factory=time.monotonic)
    sent: float | None = None
    first: float | None = None


class Exchange:
    """One request.

    Attributes:
        waits: what it waits for now (``ledger``, ``first``, ``next``, ``client``) and since when, for deadlines.
    """

    def __init__(
        self,
        endpoint: str,
        subject: Subject,
        ledger: LedgerClient,
        pools: list[upstream.Pool],
        policy: Policy,
        respond: Respond,
    ) -> None:
        self.endpoint, self.subject = endpoint, subject
        self._ledger, self._pools, self._policy, self._respond = ledger, pools, policy, respond
        self.dialect = endpoint
        self.facts = Facts()
        self.rid = secrets.token_hex(16)
        self._task = asyncio.current_task()
        self._ended: Refusal | None = None
        self.gone = False
        self.started = False
        self.waits: tuple[str, float] = ("ledger", time.monotonic())
        self._usage: Usage | None = None
        self._exact = False
        self._finish: str | None = None
        self._reader: Stream | None = None
        self._accepted = False  # the model server may have begun

    def end(self, why: Refusal) -> None:
        """End it from outside: the client is told why."""
        if self._ended is None and not self.gone and self._task is not None:
            self._ended = why
            self._task.cancel()

    def leave(self) -> None:
        """The client is gone."""
        if not self.gone and self._task is not None:
            self.gone = True
            self._task.cancel()

    async def run(self, prepared: Prepared) -> None:
        """Reserve, ask the model server, answer, settle.

        Raises:
            Refusal: the answer is to be that; nothing was sent.
        """
        reserved, told = True, None
        connection: upstream.Connection | None = None
        try:
            told = await self._ledger.reserve(self._asked(prepared))
            if told["verdict"] == "refused":
                reserved = told["reason"] in ("busy", "gone")
                raise of_ledger(told)
            connection = await self._connect(prepared, told["replicas"])
            status = await self._send(connection, prepared)
            headers = _limits(told["limits"])
            if status != 200:
                raise self._failure(status)
            if prepared.stream:
                await self._stream(connection, prepared, headers)
            else:
                await self._whole(connection, prepared, headers)
            connection.done()
            connection = None
        except asyncio.CancelledError:
            if not self.gone and self._ended is None:
                self.facts.outcome, self.facts.code = "interrupted", "interrupted"
                raise
            await self._cut()
        except (BrokenStream, upstream.BrokenError) as error:
            self.facts.outcome, self.facts.code = "upstream_error", str(error)[:100]
            await self._tell(Refusal(502, "upstream_error", "The model server ended the answer early."))
        except Refusal as refused:
            self.facts.outcome = self.facts.outcome or "refused"
            self.facts.code = self.facts.code or refused.code
            self.facts.status = refused.status
            # What the ledger refused it has written down; what never reached it the caller notes.
            refused.noted = told is not None
            reserved = reserved and told is not None
            raise
        finally:
            if connection is not None:
                connection.close()
            self._ledger.open.discard(self.rid)
            if reserved:
                self._settle(prepared)

    def _asked(self, prepared: Prepared) -> dict[str, Any]:
        subject = self.subject
        entry = {
            "credential": subject.credential, "credential_kind": subject.kind, "tenant": subject.tenant, "project": subject.project,
            "cost_centre": subject.cost_centre, "model": prepared.model, "endpoint": self.endpoint, "class": prepared.class_,
            "stream": prepared.stream, "max_tokens": prepared.output_tokens, "generation": self._policy.generation,
        }  # fmt: skip
        return {"rid": self.rid, "hold": prepared.hold, "ceiling": prepared.ceiling, "entry": entry}

    async def _connect(self, prepared: Prepared, order: list[int]) -> upstream.Connection:
        for replica in order:
            self.facts.attempts += 1
            self.facts.replica = replica
            try:
                return await self._pools[replica].connect(self._policy.config.bounds.connect_s)
            except upstream.UnreachableError:
                self._ledger.unreachable(prepared.model, replica)
        self.facts.outcome, self.facts.code = "upstream_error", "unreachable"
        raise Refusal(
            503, "model_unavailable", "The model is not available now; try again later.", headers={"retry-after": "5"}
        )

    async def _send(self, connection: upstream.Connection, prepared: Prepared) -> int:
        accept = "text/event-stream" if prepared.stream else "application/json"
        head = upstream.head_of(
            connection.prefix + UPSTREAM[self.endpoint],
            len(prepared.body),
            {"accept": accept, "x-request-id": self.rid},
        )
        self._accepted = True
        self.waits = ("first", time.monotonic())
        self.facts.sent = time.monotonic()
        return await connection.send(head, prepared.body)

    async def _stream(self, connection: upstream.Connection, prepared: Prepared, headers: dict[str, str]) -> None:
        bounds = self._policy.config.bounds
        frames = Frames(bounds.frame_bytes)
        read = self._reader = reader(self.endpoint, usage=prepared.usage, continuous=prepared.continuous)
        while data := await connection.read():
            out = b"".join([read.feed(frame) for frame in frames.feed(data)])
            now = time.monotonic()
            if out:
                if not self.started:  # headers wait for the first frame: until then a failure is an ordinary answer
                    self.facts.first, self.facts.status, self.started = now, 200, True
                    self.waits = ("client", now)
                    await self._respond.start(200, EVENTS | headers)
                self.waits = ("client", now)
                await self._respond.send(out, more=True)
            self.waits = ("next", time.monotonic())
        if frames.rest or not read.done:
            raise BrokenStream("the stream has no end")
        self.facts.outcome = "completed"
        await self._respond.send(b"", more=False)

    async def _whole(self, connection: upstream.Connection, prepared: Prepared, headers: dict[str, str]) -> None:
        chunks, size = [], 0
        while data := await connection.read():
            size += len(data)
            if size > self._policy.config.bounds.answer_bytes:
                raise BrokenStream("an answer that is too large")
            chunks.append(data)
        body = b"".join(chunks)
        self._usage, self._finish = _reported(body, self.endpoint)
        self._exact = self._usage is not None
        self.facts.first, self.facts.status, self.started = time.monotonic(), 200, True
        self.waits = ("client", time.monotonic())
        await self._respond.start(200, JSON | headers | {"content-length": str(len(body))})
        await self._respond.send(body, more=False)
        self.facts.outcome = "completed"

    def _failure(self, status: int) -> Refusal:
        """What a client is told of a failure of the model server: never its text."""
        self.facts.outcome = "upstream_error"
        self.facts.code = f"upstream_{status}"
        if status in (400, 404, 413, 422):
            self._accepted = False
            return Refusal(
                400,
                "rejected_by_model",
                "The model server rejects this request: its prompt with the wanted answer may be longer than the model's context, or the model does not support a field of it.",
            )
        if status in (429, 503):
            self._accepted = False
            return Refusal(
                503,
                "model_overloaded",
                "The model takes no more requests now; try again later.",
                headers={"retry-after": "5"},
            )
        return Refusal(502, "upstream_error", "The model server failed.")

    async def _cut(self) -> None:
        """The task was cancelled from inside: by the client's leaving, or by ``end``."""
        if self.gone or self._ended is None:
            self.facts.outcome, self.facts.status = "client_left", self.facts.status or 499
            return
        self.facts.outcome, self.facts.code = "ended", self._ended.code
        await self._tell(self._ended)

    async def _tell(self, why: Refusal) -> None:
        """The last word to the client: an error event in a stream that began, an answer otherwise."""
        if self.started and not self._reader:
            return  # a whole answer was on its way; cutting it is all that can be said
        if not self.started:
            self.facts.status = why.status
            raise replace(why, noted=True)
        number = self._reader.number + 1 if self._reader else 0
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self._respond.send(why.event(self.dialect, number), more=True)
                await self._respond.send(b"", more=False)
        except TimeoutError:
            self.facts.code = "client_stalled"

    def _settle(self, prepared: Prepared) -> None:
        usage, exact = self._usage, self._exact
        if self._reader is not None:
            usage, exact = self._reader.usage, self._reader.final
            if usage is not None and not exact and prepared.choices == 1 and self.endpoint in ("chat", "completions"):
                # Tokens that were generated after the last chunk and before the model server stopped.
                completion = min(usage.completion + prepared.interval, prepared.output_tokens)
                usage, exact = Usage(usage.prompt, completion, usage.cached), True
        unknown = prepared.ceiling if self._accepted else 0
        tokens = usage.total if usage is not None and exact else unknown
        facts = self.facts
        finish = self._reader.finish if self._reader else self._finish
        told = {
            "status": facts.status, "outcome": facts.outcome, "code": facts.code, "replica": facts.replica, "attempts": facts.attempts,
            "served": self._policy.models[prepared.model].upstream_name, "finish": finish[:40] if type(finish) is str else None,
            "prompt_tokens": usage.prompt if usage else None, "completion_tokens": usage.completion if usage else None,
            "cached_tokens": usage.cached if usage else None, "estimated": not exact and tokens > 0,
            "queue_ms": _ms(facts.began, facts.sent), "first_ms": _ms(facts.sent, facts.first), "ms": _ms(facts.began, time.monotonic()),
        }  # fmt: skip
        self._ledger.settle(self.rid, tokens, told)


def _ms(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round((end - begin) * 1000, 1)


def _limits(told: dict[str, list[float]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, (limit, remaining, reset_s) in told.items():
        headers |= limit_headers(name, limit, remaining, reset_s)
    return headers


def _reported(body: bytes, endpoint: str) -> tuple[Usage | None, str | None]:
    """Usage of a whole answer, and why it ended. Embeddings are megabytes of numbers, so there only the end is read."""
    try:
        if endpoint in ("embeddings", "rerank", "score"):
            at = body.rfind(b'"usage":')
            return (usage_of(orjson.loads(_object(body[at + 8 :]))) if at >= 0 else None), None
        found = orjson.loads(body)
    except (orjson.JSONDecodeError, ValueError):
        raise BrokenStream("an answer that is not JSON") from None
    if type(found) is not dict:
        raise BrokenStream("an answer that is not an object")
    if endpoint == "tokenize":
        return Usage(), None
    choices = found.get("choices")
    first = choices[0] if type(choices) is list and choices and type(choices[0]) is dict else {}
    finish = first.get("finish_reason") or found.get("stop_reason") or found.get("status")
    return usage_of(found.get("usage")), finish if type(finish) is str else None


def _object(raw: bytes) -> bytes:
    """The JSON object that bytes begin with; it holds no texts."""
    level = 0
    for at, byte in enumerate(raw[:4096]):
        level += (byte == 0x7B) - (byte == 0x7D)
        if byte == 0x7D and not level:
            return raw[: at + 1]
    raise ValueError("no object")
