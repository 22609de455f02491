"""Clients at a serving site while something is changed: requests on kept connections, and streams that stay open."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.nodes.daytwosite import Site

STREAMS, ASKERS = 6, 3
PAUSE_S = 0.005  # between two requests of a client
DEADLINE_S = 300.0


@dataclass
class Load:
    """Clients that ask without a pause on connections they keep, and streams that stay open until the end."""

    site: Site
    asked: int = 0
    again: int = 0
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    files: Path = Path()  # the clients' certificate; may be replaced meanwhile

    def more(self, requests: int = 60) -> None:
        """Wait until so many more were answered or failed."""
        wanted, deadline = self.asked + requests, time.monotonic() + DEADLINE_S
        while self.asked < wanted:
            assert time.monotonic() < deadline, f"only {self.asked} requests were answered"
            time.sleep(PAUSE_S)


@contextmanager
def load(site: Site, files: Path) -> Iterator[Load]:
    """A request counts as failed when it failed on a kept connection and once more on a fresh one."""
    found, over = Load(site, files=files), threading.Event()

    def ask() -> None:
        connection = site.connect(found.files)
        while not over.is_set():
            for attempt in (1, 2):
                try:
                    connection.request(
                        "POST", "/v1/completions", json.dumps({"n": 1}), {"Content-Type": "application/json"}
                    )
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 200, answer.status
                    break
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    connection.close()
                    connection = site.connect(found.files)
                    if attempt == 2:
                        found.failed.append(repr(error))
                    else:
                        found.again += 1
            found.asked += 1
            over.wait(PAUSE_S)

    streams = []
    word = secrets.token_hex(4)
    for number in range(STREAMS):
        connection = site.connect(files)
        body = json.dumps({"stream": True, "name": f"{word}-{number}"})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200 and b"node" in response.readline()
        streams.append((connection, response))
    threads = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    for number, (connection, response) in enumerate(streams):
        other = site.connect(found.files)
        other.request(
            "POST", "/v1/completions", json.dumps({"release": f"{word}-{number}"}), {"Content-Type": "application/json"}
        )
        other.getresponse().read()
        try:
            rest = response.read()
        except (OSError, http.client.HTTPException) as error:
            rest = repr(error).encode()
        if not rest.endswith(b"data: [DONE]\n\n"):
            found.cut.append(f"{number}: {rest[-80:]!r}")
        connection.close()
