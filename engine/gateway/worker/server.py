"""The worker's process: uvicorn on a unix socket, a line to the ledger, and a self-test before it says that it is ready."""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
from pathlib import Path

import uvicorn
import uvloop

from engine.errors import ApplianceError
from engine.gateway import checking, notify
from engine.gateway.configuration import KINDS
from engine.gateway.ledger.core import Payload
from engine.gateway.worker.app import Gateway
from engine.gateway.worker.ledgerclient import LedgerClient
from engine.gateway.worker.refusal import of_ledger

log = logging.getLogger("appliance-gateway")
BACKLOG = 2048
DRAIN_S = 3600


def serve(config: Path, socket: Path) -> None:
    """Answer until SIGTERM; running answers then end first.

    Raises:
        InputError: the configuration is wrong.
    """
    settings = checking.load(config)
    uvloop.run(_serve(settings.ledger.socket, settings.bounds.ledger_s, socket))


async def _serve(ledger_socket: Path, wait_s: float, socket: Path) -> None:
    gateway: Gateway

    def arrived(snapshot: Payload) -> None:
        try:
            gateway.apply(snapshot)
        except Exception:  # the ledger checked it: this is another version's, and the old one goes on
            log.exception("a snapshot cannot be applied")

    client = LedgerClient(ledger_socket, arrived, wait_s)
    gateway = Gateway(client)
    tasks = [asyncio.create_task(client.run()), asyncio.create_task(gateway.sweep())]
    await gateway.arrived.wait()
    await prove(client)
    server = uvicorn.Server(
        uvicorn.Config(
            gateway, loop="none", http="httptools", ws="none", lifespan="off", interface="asgi3", log_config=None, log_level="error", access_log=False,
            proxy_headers=False, server_header=False, date_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=32 << 10,
        )
    )  # fmt: skip
    listener = listen(socket)
    ready = asyncio.create_task(_ready(server))

    def ended(task: asyncio.Task[None]) -> None:
        """A worker without its line to the ledger, or without deadlines, must not go on as if it had them."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the worker failed", exc_info=error)
            server.should_exit = True

    for task in tasks:
        task.add_done_callback(ended)
    try:
        await server.serve([listener])
    finally:
        ready.cancel()
        for task in tasks:
            task.cancel()
        gateway.close()


def listen(path: Path) -> sockets.socket:
    """A listening unix socket for the group of nginx; a new worker takes the name over while the old one ends what it has."""
    made = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    made.bind(str(new))
    new.chmod(0o660)
    made.listen(BACKLOG)
    made.setblocking(False)
    new.replace(path)
    return made


async def prove(client: LedgerClient) -> None:
    """Over this line to the ledger, a request beyond each kind of limit must become an answer 429.

    Raises:
        ApplianceError: one did not.
    """
    for kind in KINDS:
        told = await client.probe(kind)
        refusal = of_ledger(told) if told["verdict"] == "refused" else None
        if refusal is None or refusal.status != 429 or "retry-after" not in refusal.headers:
            raise ApplianceError(
                f"self-test: the limit {kind} does not refuse", remedy="This is a fault of the program; report it."
            )


async def _ready(server: uvicorn.Server) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    notify.ready()
    log.info("ready")
