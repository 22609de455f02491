"""The ledger's process: a unix socket for workers, a watch on the configuration, flushes and checkpoints."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from engine.errors import ApplianceError, ResourceError
from engine.gateway import notify, snapshot
from engine.gateway.audit.writer import Writer, signing_key
from engine.gateway.ledger import selftest, wal
from engine.gateway.ledger.clock import Clock, boot_id
from engine.gateway.ledger.core import Ledger
from engine.gateway.ledger.wire import Frames, pack

log = logging.getLogger("appliance-ledger")
TICK_S = 0.1
WATCH_S = 0.25
LEAST_FREE_BYTES = 16 << 20  # kept for settling what runs


class Server:
    """The ledger and the workers that are connected to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.config, self._keys = snapshot.read(path)
        if failures := selftest.run(self.config):
            raise ApplianceError(
                "a configured limit does not refuse: " + "; ".join(failures),
                remedy="This is a fault of the program; report it.",
            )
        self.generation = 1
        settings = self.config.ledger
        self.ledger = Ledger(
            self.config,
            Clock(self.config.timezone),
            wal.Log(settings.directory / "state"),
            Writer(settings.directory / "audit", settings, signing_key(settings.checkpoint_key), self.config.site),
            boot_id(),
        )
        self.workers: set[Worker] = set()
        self.waiting: dict[str, tuple[Worker, int]] = {}  # request -> who asked, and the number of the question
        self._owners: dict[str, float] = {}  # workers that are gone, until when they may come back
        self._files: list[tuple[int, int, int]] = []
        self._stop = asyncio.Event()
        self._full, self._failed = "", False

    async def run(self, socket: Path) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        self.ledger.start()
        now = loop.time()
        self._owners = {r.owner: now + self.config.ledger.worker_grace_s for r in self.ledger.books.open.values()}
        self._files = snapshot.state_of(snapshot.watched(self._path, self.config))
        self.ledger.note({"kind": "administrative", "act": "ledger started", "generation": self.generation})
        self.commit()
        socket.unlink(missing_ok=True)
        server = await loop.create_unix_server(lambda: Worker(self), str(socket))
        socket.chmod(0o660)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        tasks = [asyncio.create_task(t) for t in (self._ticks(), self._flushes(), self._watch(), self._checkpoints())]
        for task in tasks:
            task.add_done_callback(self._ended)
        notify.ready()
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        self.ledger.note({"kind": "administrative", "act": "ledger stopped"})
        self.commit()
        self.ledger.writer.checkpoint()
        self.ledger.log.close()
        if self._failed:
            raise ApplianceError(
                "the ledger stopped after a failure",
                where="its log has it",
                remedy="Fix what it names; systemd starts it again.",
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A ledger that no longer flushes, grants or watches must not go on as if it did."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the ledger failed", exc_info=error)
            self._failed = True
            self._stop.set()

    def commit(self) -> set[str]:
        """Write, then tell the workers whose requests may run now."""
        undone = self.ledger.commit()
        if self.ledger.full != self._full:
            self._full = self.ledger.full
            log.error(
                "new requests are refused, nothing can be written: %s", self._full
            ) if self._full else log.warning("the disk has space again")
        granted, self.ledger.granted = self.ledger.granted, []
        for rid in granted:
            if rid in self.ledger.books.open and (asked := self.waiting.pop(rid, None)):
                asked[0].answer(asked[1], {"verdict": "run", "replicas": self.ledger.assign(rid), "limits": {}})
        return undone

    def push(self) -> bytes:
        """The snapshot as a message."""
        body = {"generation": self.generation, "config": self.config.dump(), "keys": self._keys}
        return pack([0, "snapshot", body])

    def reload(self) -> None:
        """Read the configuration again. A wrong one is refused whole, and the old one stays in force."""
        try:
            config, keys = snapshot.read(self._path)
            if config.ledger != self.config.ledger:
                raise ResourceError("the settings under `ledger` changed", remedy="Restart the ledger to apply them.")
            if failures := selftest.run(config):
                raise ApplianceError("a configured limit does not refuse: " + "; ".join(failures))
        except ApplianceError as error:
            log.error("configuration refused, the old one stays in force: %s", error)
            self.ledger.note({"kind": "administrative", "act": "configuration refused", "reason": str(error)[:4000]})
            self.commit()
            return
        if (config, keys) == (self.config, self._keys):
            return
        before = self.config
        self.config, self._keys = config, keys
        self.generation += 1
        self.ledger.configure(config)
        self.ledger.clock = Clock(config.timezone, latest=self.ledger.clock.latest)
        self.ledger.note(
            {
                "kind": "administrative",
                "act": "configuration applied",
                "generation": self.generation,
                **_changes(before, config),
            }
        )
        self.ledger.grant()
        self.commit()
        message = self.push()
        for worker in self.workers:
            worker.send(message)

    def gone(self, worker: Worker) -> None:
        """A worker's connection ended: it has a while to come back, then what it carried is charged in full."""
        self.workers.discard(worker)
        self.waiting = {rid: asked for rid, asked in self.waiting.items() if asked[0] is not worker}
        if worker.owner and not any(w.owner == worker.owner for w in self.workers):
            self._owners[worker.owner] = asyncio.get_running_loop().time() + self.config.ledger.worker_grace_s

    def came(self, worker: Worker, still: set[str]) -> None:
        """A worker connected, perhaps again; ``still`` are the requests that it knows of."""
        self._owners.pop(worker.owner, None)
        self.ledger.lose([r for r in self.ledger.books.open.values() if r.owner == worker.owner and r.rid not in still])

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            for owner in [o for o, until in self._owners.items() if until <= now]:
                del self._owners[owner]
                self.ledger.lose([r for r in self.ledger.books.open.values() if r.owner == owner])
            for rid in self.ledger.expire():
                if asked := self.waiting.pop(rid, None):
                    asked[0].answer(asked[1], {"verdict": "refused", "reason": "busy"})
            self.ledger.grant()
            self.commit()
            self.ledger.low = _free(self.config.ledger.directory) < LEAST_FREE_BYTES

    async def _flushes(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(wal.FLUSH_S)
            if self.ledger.log.dirty:
                await loop.run_in_executor(None, self.ledger.log.flush)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            files = snapshot.state_of(snapshot.watched(self._path, self.config))
            if files != self._files:
                self._files = files
                self.reload()

    async def _checkpoints(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.5)
            if not self.ledger.writer.due() and loop.time() - last < self.config.ledger.checkpoint_s:
                continue
            last = loop.time()
            try:
                self.ledger.writer.checkpoint()
                self.ledger.writer.retain(self.ledger.clock.latest)
            except (OSError, ResourceError) as error:
                log.error("no checkpoint: %s", error)


class Worker(asyncio.Protocol):
    """The connection of one worker."""

    def __init__(self, server: Server) -> None:
        self._server, self._frames = server, Frames()
        self.owner = ""
        self._verbs: dict[str, Callable[[int, Any], Any]] = {
            "hello": self._hello,
            "reserve": self._reserve,
            "settle": self._settle,
            "note": lambda _, asked: server.ledger.note(asked),
            "budget": lambda _, asked: server.ledger.standing(asked),
            "probe": lambda _, kind: selftest.probe(kind, server.ledger.clock),
            "unreachable": lambda _, asked: server.ledger.unreachable(asked[0], asked[1]),
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.workers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.gone(self)

    def data_received(self, data: bytes) -> None:
        answers: list[tuple[int, str, Any]] = []
        try:
            for number, verb, asked in self._frames.feed(data):
                if (found := self._verbs[verb](number, asked)) is not Ellipsis:
                    answers.append((number, asked["rid"] if verb == "reserve" else "", found))
        except Exception:  # a worker of another version, or a fault: the others go on
            log.exception("a worker said something that cannot be understood")
            self._transport.abort()
        undone = self._server.commit()
        for number, rid, found in answers:
            self.answer(number, {"verdict": "refused", "reason": "storage"} if rid in undone else found)

    def answer(self, number: int, payload: Any) -> None:
        self.send(pack([number, payload]))

    def send(self, raw: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(raw)

    def _hello(self, number: int, asked: Any) -> Any:
        self.owner = asked["owner"]
        self._server.came(self, set(asked["open"]))
        self.send(self._server.push())
        return None

    def _reserve(self, number: int, asked: Any) -> Any:
        told = self._server.ledger.reserve(self.owner, asked)
        if told["verdict"] == "wait":
            self._server.waiting[asked["rid"]] = (self, number)
            return ...
        return told

    def _settle(self, number: int, asked: Any) -> Any:
        if pending := self._server.waiting.pop(asked["rid"], None):
            pending[0].answer(pending[1], {"verdict": "refused", "reason": "gone"})
        return self._server.ledger.settle(asked["rid"], asked["tokens"], asked["facts"])


def _changes(before: Any, after: Any) -> dict[str, Any]:
    """Which tenants and credentials came, went or changed; names alone."""

    def entries(config: Any) -> dict[str, Any]:
        found = {f"tenant {t.name}": t for t in config.tenants} | {f"model {m.name}": m for m in config.models}
        found |= {f"credential {c.id}": c for t in config.tenants for c in (*t.keys, *t.certificates)}
        return found | {f"issuer {i.issuer}": i for i in config.issuers}

    old, new = entries(before), entries(after)
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(k for k in old.keys() & new.keys() if old[k] != new[k]),
    }


def _free(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
