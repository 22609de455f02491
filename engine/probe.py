"""Ask a served model for one token. A server that answers but cannot generate is not ready."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import ApplianceError

MAX_ANSWER = 1 << 20  # bytes; a completion of one token is a few hundred
PAUSE_S = 0.5  # between attempts while a server starts
ATTEMPT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What the model said. ``seconds`` is the time to the whole answer."""

    model: str
    tokens: int
    seconds: float


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_token(path: Path, model: str, timeout_s: float) -> Answer:
    """One generated token through the socket.

    Raises:
        ApplianceError: no connection, another status than 200, or an answer without a token.
    """
    begin = time.monotonic()
    body = {"model": model, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1, "temperature": 0}
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        raw = response.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise ApplianceError(
            f"the model does not answer: {error}", where=str(path), remedy="Look at the unit's journal."
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        raise ApplianceError(
            f"the model answers {response.status}: {raw[:300].decode(errors='replace')}",
            where=str(path),
            remedy="Look at the unit's journal.",
        )
    return Answer(model, _tokens(raw, path), round(time.monotonic() - begin, 3))


def _tokens(raw: bytes, path: Path) -> int:
    try:
        tokens = int(json.loads(raw)["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise ApplianceError(
            "the model's answer is not what the API promises", where=str(path), remedy="Look at the unit's journal."
        ) from error
    if tokens < 1:
        raise ApplianceError(
            "the model answered without a token", where=str(path), remedy="Look at the unit's journal."
        )
    return tokens


def wait_for_token(path: Path, model: str, timeout_s: float) -> Answer:
    """Ask until a token comes. Only a server that is not there yet is asked again; a wrong answer fails at once.

    Raises:
        ApplianceError: none came within ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask_token(path, model, min(ATTEMPT_S, max(1.0, deadline - time.monotonic())))
        except ApplianceError as error:
            starting = isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))
            if not starting or time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_S)


def main(argv: list[str]) -> int:
    """`appliance-engine probe`: prints one JSON document."""
    parser = argparse.ArgumentParser(prog="appliance-engine probe")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("--wait", action="store_true", help="wait for a server that is starting")
    options = parser.parse_args(argv)
    ask = wait_for_token if options.wait else ask_token
    print(json.dumps(asdict(ask(options.socket, options.model, options.timeout))))  # noqa: T201
    return 0
