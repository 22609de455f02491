"""A double of vLLM's server: HTTP on a unix socket, answers that say what was asked, streams that end when they are told.

It makes no tokens. What a test needs of a model server is here: server-sent events one by one, a record of what arrived as
it arrived, and notice of a client that left.
"""

from __future__ import annotations

import json
import os
import select
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

WAIT_S = 60.0
NODE = os.environ["NODE"]

released: dict[str, threading.Event] = {}
record: list[dict[str, Any]] = []
lock = threading.Lock()


def event(name: str) -> threading.Event:
    with lock:
        return released.setdefault(name, threading.Event())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = WAIT_S

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: prompts do not belong into the journal."""

    def do_GET(self) -> None:
        with lock:
            seen = list(record)
        self.answer({"object": "list", "path": self.path, "headers": dict(self.headers), "record": seen})

    def do_POST(self) -> None:
        entry: dict[str, Any] = {"path": self.path, "begun": True, "left": False}
        with lock:
            record.append(entry)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        entry["name"] = body.get("name", "")
        if body.get("release"):
            event(body["release"]).set()
        if body.get("stream"):
            self.stream(body["name"], entry)
        else:
            self.answer(
                {
                    "path": self.path,
                    "headers": dict(self.headers),
                    "bytes": len(json.dumps(body)),
                    "node": NODE,
                }
            )

    def answer(self, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        # What must not get through or steer the edge.
        self.send_header("X-Smg-Routed-Worker-Id", "http://10.0.0.1:8000")
        self.send_header("X-Accel-Redirect", "/healthz")
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, name: str, entry: dict[str, Any]) -> None:
        """One event at once, the others when a request with ``release: name`` has come."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Accel-Buffering", "yes")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(f'data: {{"node":"{NODE}"}}\n\n')
        while not event(name).wait(0.05):
            gone, _, _ = select.select([self.connection], [], [], 0)
            if gone:  # readable without a request to come: the other side has closed
                entry["left"] = True
                self.close_connection = True
                return
        for number in range(3):
            self.chunk(f'data: {{"number":{number}}}\n\n')
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    os.umask(0o007)
    with Server(str(path), Handler) as server:
        server.serve_forever()


main()
