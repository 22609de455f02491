"""The gateway as it runs: ledger, workers and doubles of model servers as processes, and nginx before them where a test is about nginx."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tests import gatewaysite as lab

DEADLINE_S = 240.0  # of a machine that does much else; nothing waits longer than it must


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """The first true value of a condition."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


class _UnixConnection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self.path)


def unix_pool(path: Path, size: int = 64) -> HTTPConnectionPool:
    """HTTP over a unix socket."""
    pool = HTTPConnectionPool("appliance", maxsize=size, block=False)
    pool.ConnectionCls = type("Connection", (_UnixConnection,), {"path": str(path)})
    return pool


class Running:
    """A site whose parts are processes of this test."""

    def __init__(self, where: Path, workers: int = 1, replicas: int = 1, **changes: Any) -> None:
        self.where = where
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.data = lab.site(where)
        self.replicas = replicas
        self.data["models"][0]["replicas"] = [{"url": f"unix:{where / f'model{i}.sock'}"} for i in range(replicas)]
        self.data |= changes
        self.names = [f"worker{i}" for i in range(workers)]
        self.config = lab.write(where, self.data)

    def start(self) -> Running:
        for i in range(self.replicas):
            self.model(i)
        self.ledger()
        for name in self.names:
            self.worker(name)
        return self

    def spawn(self, name: str, *words: str | Path) -> subprocess.Popen[bytes]:
        with (self.where / f"{name}.log").open("ab") as log:
            made = self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", *map(str, words)], stdout=log, stderr=log, cwd=Path(__file__).parents[3]
            )
        return made

    def model(self, i: int) -> None:
        path = self.where / f"model{i}.sock"
        path.unlink(missing_ok=True)
        # The working directory is the project, which -P leaves out.
        with (self.where / f"model{i}.log").open("ab") as log:
            argv = [sys.executable, "-m", "tests.vllm_api_double", str(path), str(self.where / "record.jsonl")]
            self.processes[f"model{i}"] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=Path(__file__).parents[3])
        wait_for(lambda: _answers(path), f"model server {i}")

    def ledger(self) -> None:
        path = self.where / "ledger.sock"
        path.unlink(missing_ok=True)
        self.spawn("ledger", "-m", "engine.gateway.cli", "ledger", "--config", self.config, "--socket", path)
        wait_for(lambda: _answers(path) or self.processes["ledger"].poll() is not None, "the ledger")
        assert self.processes["ledger"].poll() is None, self.log("ledger")

    def worker(self, name: str) -> None:
        path = self.where / f"{name}.sock"
        path.unlink(missing_ok=True)
        self.spawn(name, "-m", "engine.gateway.cli", "serve", "--config", self.config, "--socket", path)
        process = self.processes[name]
        wait_for(lambda: _answers(path) or process.poll() is not None, name)
        assert process.poll() is None, self.log(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(DEADLINE_S)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait(DEADLINE_S)

    def write(self, data: dict[str, Any] | None = None) -> None:
        lab.write(self.where, data or self.data)

    def log(self, name: str) -> str:
        return (self.where / f"{name}.log").read_text()

    def record(self, kind: str = "end") -> list[dict[str, Any]]:
        """What the model servers saw."""
        with suppress(FileNotFoundError):
            return [
                r for r in map(json.loads, (self.where / "record.jsonl").read_text().splitlines()) if r["kind"] == kind
            ]
        return []

    def audit(self, kind: str = "request") -> list[dict[str, Any]]:
        """Lines of the audit log."""
        found: list[dict[str, Any]] = []
        for path in sorted((self.where / "ledger/audit").glob("*.jsonl")):
            found += [json.loads(line) for line in path.read_bytes().splitlines()]
        return [r for r in found if r["kind"] == kind]

    def ask(
        self, body: Any, path: str = "/v1/chat/completions", *, key: str = lab.KEY, worker: int = 0, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        """One request with an API key; the answer read whole unless ``preload_content`` says otherwise."""
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **more.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        pool = unix_pool(self.where / f"{self.names[worker]}.sock")
        return pool.request(more.pop("method", "POST"), path, body=raw, headers=headers, retries=False, **more)

    def budget(self, key: str = lab.KEY) -> Any:
        return self.ask(b"", "/v1/appliance/budget", method="GET", key=key).json()["limits"]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.connect(str(path))
        return True
    return False


@contextmanager
def running(where: Path, **settings: Any) -> Iterator[Running]:
    """A site that runs until the end of the block."""
    made = Running(where, **settings)
    try:
        yield made.start()
    finally:
        made.stop()


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
