"""The ASGI application: reads a request, finds out who asks, and hands it to an exchange. No framework between uvicorn and this."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import orjson

from engine.gateway.worker import upstream
from engine.gateway.worker.exchange import JSON, PATHS, Exchange
from engine.gateway.worker.identity import Identities, headers_of
from engine.gateway.worker.ledgerclient import LedgerClient, unavailable
from engine.gateway.worker.policy import Policy, Subject
from engine.gateway.worker.prepare import Prepared, Terms, prepare
from engine.gateway.worker.refusal import Refusal, revoked

log = logging.getLogger("appliance-gateway")
SWEEP_S = 0.5
READS = {"/v1/models": "models", "/v1/appliance/budget": "budget"}
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Responder:
    """Writes an answer through ASGI."""

    def __init__(self, send: Send, rid: str) -> None:
        self._send, self._rid = send, rid

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        fields = [(k.encode(), v.encode()) for k, v in headers.items()]
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*fields, (b"x-request-id", self._rid.encode())],
            }
        )

    async def send(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer."""
        await self.start(status, JSON | headers | {"content-length": str(len(body))})
        await self.send(body, more=False)


class Gateway:
    """A worker's requests.

    Attributes:
        running: exchanges that are not over.
    """

    def __init__(self, ledger: LedgerClient) -> None:
        self.ledger = ledger
        self.policy: Policy | None = None
        self.running: set[Exchange] = set()
        self.arrived = asyncio.Event()
        self._identities = Identities()
        self._pools: dict[str, tuple[Any, list[upstream.Pool]]] = {}
        self._process: ProcessPoolExecutor | None = None
        self._large = asyncio.Lock()

    def apply(self, snapshot: dict[str, Any]) -> None:
        """Decide by another snapshot from now on; requests whose credential it does not hold are ended."""
        policy = Policy(snapshot)
        for model in policy.config.models:
            known = self._pools.get(model.name)
            if known is None or known[0] != model.replicas:
                for pool in known[1] if known else ():
                    pool.close()
                self._pools[model.name] = (model.replicas, [upstream.Pool(r) for r in model.replicas])
        self.policy = policy
        self.ledger.wait_s = policy.config.bounds.ledger_s
        now = time.time()
        for exchange in list(self.running):
            if not policy.holds(exchange.subject, now):
                exchange.end(revoked())
        self.arrived.set()

    async def sweep(self) -> None:
        """End what waits too long, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            if self.policy is None:
                continue
            bounds = self.policy.config.bounds
            most = {"first": bounds.first_byte_s, "next": bounds.stall_s, "client": bounds.client_stall_s}
            for exchange in list(self.running):
                what, since = exchange.waits
                if now - since <= most.get(what, float("inf")):
                    continue
                if what == "client":
                    exchange.leave()
                else:
                    exchange.end(Refusal(504, "upstream_timeout", "The model did not answer in time."))

    def close(self) -> None:
        """Let go of connections and processes."""
        for _, pools in self._pools.values():
            for pool in pools:
                pool.close()
        if self._process is not None:
            self._process.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        endpoint = PATHS.get(path) or READS.get(path, "")
        exchange: Exchange | None = None
        responder = Responder(send, "-")
        subject: Subject | None = None
        try:
            policy = self.policy
            if policy is None:
                raise unavailable()
            subject = self._identify(scope, policy, endpoint)
            if path in READS:
                await self._read(path, subject, policy, responder)
                return
            raw = await _body(scope, receive, policy.config.bounds.body_bytes)
            prepared = await self._prepare(raw, endpoint, policy.terms(subject), policy.config.bounds.inline_bytes)
            # What was revoked while the body came is not in `running` yet, so nobody ends it.
            if self.policy is not None and self.policy is not policy and not self.policy.holds(subject, time.time()):
                raise revoked()
            exchange = Exchange(endpoint, subject, self.ledger, self._pools[prepared.model][1], policy, responder)
            responder._rid = exchange.rid
            self.running.add(exchange)
            watch = asyncio.create_task(_watch(receive, exchange))
            try:
                await exchange.run(prepared)
            finally:
                watch.cancel()
                self.running.discard(exchange)
        except Refusal as refusal:
            self._note(refusal, endpoint, subject)
            await responder.whole(refusal.status, refusal.body(endpoint), refusal.headers)
        except (_Gone, asyncio.CancelledError):
            if exchange is not None and not exchange.gone:
                raise

    def _identify(self, scope: dict[str, Any], policy: Policy, endpoint: str) -> Subject:
        headers = headers_of(scope["headers"])
        subject = self._identities.find(headers, policy)
        if not endpoint:
            raise Refusal(404, "unknown_path", "There is no such path.")
        wanted = "GET" if endpoint in READS.values() else "POST"
        if scope["method"] != wanted:
            raise Refusal(405, "method_not_allowed", f"This path takes {wanted}.", headers={"allow": wanted})
        if wanted == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "unsupported_media_type", "The content type must be application/json.")
        return subject

    async def _read(self, path: str, subject: Subject, policy: Policy, responder: Responder) -> None:
        if path == "/v1/models":
            created = 0
            data = [
                {"id": n, "object": "model", "created": created, "owned_by": "appliance"}
                for n in policy.tenants[subject.tenant].models
            ]
            await responder.whole(200, orjson.dumps({"object": "list", "data": data}), {})
            return
        entry = {"credential": subject.credential, "tenant": subject.tenant, "project": subject.project}
        told = await self.ledger.budget(entry)
        body = {
            "object": "budget",
            "tenant": subject.tenant,
            "project": subject.project,
            "credential": subject.credential,
            "limits": told,
        }
        await responder.whole(200, orjson.dumps(body), {"cache-control": "no-store"})

    async def _prepare(self, raw: bytes, endpoint: str, terms: Terms, inline_bytes: int) -> Prepared:
        """Small bodies here; large ones, which would stop every stream for milliseconds, one at a time in another process."""
        if len(raw) <= inline_bytes:
            return prepare(raw, endpoint, terms)
        async with self._large:
            if self._process is None:
                self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            try:
                made = await asyncio.get_running_loop().run_in_executor(
                    self._process, _prepare_apart, raw, endpoint, terms
                )
            except BrokenExecutor:
                self._process = None
                raise Refusal(
                    503,
                    "unavailable",
                    "The request could not be read now; try again later.",
                    headers={"retry-after": "5"},
                ) from None
        if isinstance(made, tuple):
            raise Refusal(*made)
        return made

    def _note(self, refusal: Refusal, endpoint: str, subject: Subject | None) -> None:
        if refusal.noted:
            return
        entry: dict[str, Any] = {
            "kind": "request", "endpoint": endpoint or "unknown", "status": refusal.status, "code": refusal.code, "outcome": "refused", "charged_tokens": 0,
        }  # fmt: skip
        if subject is not None:
            entry |= {
                "credential": subject.credential, "credential_kind": subject.kind, "tenant": subject.tenant, "project": subject.project,
                "cost_centre": subject.cost_centre,
            }  # fmt: skip
        self.ledger.note(entry)


class _Gone(Exception):  # noqa: N818  # it is what happened
    """The client left before its request was whole."""


def _prepare_apart(raw: bytes, endpoint: str, terms: Terms) -> Prepared | tuple[int, str, str, str | None]:
    try:
        return prepare(raw, endpoint, terms)
    except Refusal as refusal:
        return refusal.status, refusal.code, refusal.message, refusal.param


async def _body(scope: dict[str, Any], receive: Receive, most: int) -> bytes:
    too_large = Refusal(413, "body_too_large", f"The request body is larger than {most} bytes.")
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > most:
            raise too_large
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _watch(receive: Receive, exchange: Exchange) -> None:
    """Wait until the client leaves. Asked all the time and not between chunks: a silent stream has none."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        exchange.leave()
