"""Ask a served model for one token, or for what it makes instead. A server that answers but cannot generate is not ready.

Only the standard library: the unit's start waits for this, and it must run before anything else of a release does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine import chat, pooling, strictjson
from engine.errors import ApplianceError, InputError
from engine.pooling import Task

MAX_ANSWER = 1 << 20  # bytes; a completion of one token is a few hundred
PAUSE_S = 0.5  # between attempts while a server starts
# A sentence and not a word: on processors with AMX, vLLM 0.32 for CPU dies of SIGILL when the first prompt of a process is
# shorter than 16 tokens, because its attention kernel counts on a longer matrix product having asked for the unit before.
PROMPT = "The quick brown fox jumps over the lazy dog, and the lazy dog looks up, yawns, and goes back to sleep until evening"
SHOWN = 300  # bytes of a refusal that are worth a person's time

_JOURNAL = "Look at the unit's journal: journalctl -u 'appliance-vllm@*'."


@dataclass(frozen=True)
class Https:
    """A server behind TLS. ``context`` holds whom to trust and, for mutual TLS, the certificate to show."""

    host: str
    port: int
    context: ssl.SSLContext

    def __str__(self) -> str:
        return f"https://{self.host}:{self.port}"


Target = Path | Https  # a path is a unix socket


@dataclass(frozen=True)
class Answer:
    """What the model said. ``seconds`` is the time to the whole answer, ``endpoint`` what was asked; ``tokens`` counts numbers where a
    model does not generate."""

    model: str
    tokens: int
    seconds: float
    endpoint: str


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_token(target: Target, model: str, timeout_s: float, *, chats: bool = False, task: Task = "") -> Answer:
    """One generated token, or the numbers of a model that makes some. No redirect is followed, and the answer is at most ``MAX_ANSWER`` bytes.

    Args:
        chats: ask as clients do, in messages: for a model that has a chat template. A plain completion needs none.

    Raises:
        ApplianceError: no connection, no whole answer within ``timeout_s`` seconds, another status than 200, or an
            answer without a token.
    """
    begin = time.monotonic()
    if task:
        raw = _ask(target, pooling.ENDPOINTS[task], pooling.question(task, model, PROMPT), timeout_s)
        try:
            numbers = pooling.values(task, raw)
        except ValueError as error:
            raise _failure(target, f"the model's answer is not what the API promises: {error}") from error
        return Answer(model, numbers, round(time.monotonic() - begin, 3), pooling.ENDPOINTS[task])
    endpoint = chat.CHAT if chats else chat.COMPLETIONS
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}]} if chats else {"prompt": PROMPT}
    body = {"model": model, **asked, "max_tokens": 1, "temperature": 0, "stream": False}
    tokens = _tokens(_ask(target, endpoint, body, timeout_s), target)
    return Answer(model, tokens, round(time.monotonic() - begin, 3), endpoint)


def complete(target: Target, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """One completion, whole.

    Raises:
        ApplianceError: as for ``ask_token``; or the answer is no JSON object.
    """
    raw = _ask(target, chat.COMPLETIONS, body, timeout_s)
    try:
        found = strictjson.loads(raw)
    except ValueError as error:
        raise _failure(target, "the model's answer is not what the API promises") from error
    if not isinstance(found, dict):
        raise _failure(target, "the model's answer is not what the API promises")
    return found


def _ask(target: Target, endpoint: str, body: Mapping[str, Any], timeout_s: float) -> bytes:
    status, raw = _post(target, endpoint, json.dumps(body), timeout_s)
    if status != 200:
        raise _failure(target, f"the model answers {status}: {raw[:SHOWN].decode(errors='replace')}")
    if len(raw) > MAX_ANSWER:
        raise _failure(target, f"the model's answer is longer than {MAX_ANSWER} bytes")
    return raw


def wait_for_token(
    target: Target,
    model: str,
    timeout_s: float,
    *,
    chats: bool = False,
    task: Task = "",
    alive: Callable[[], bool] = lambda: True,
) -> Answer:
    """Ask until a token comes. Only a server that does not listen yet is asked again; a wrong answer fails at once.

    Args:
        alive: whether the server that is waited for still runs; a dead one ends the wait.

    Raises:
        ApplianceError: none came within ``timeout_s`` seconds, or the server ended.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            # The first token of a large model compiles kernels, so an attempt may take all the time that is left.
            return ask_token(target, model, max(1.0, deadline - time.monotonic()), chats=chats, task=task)
        except ApplianceError as error:
            if not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                raise
            if not alive():
                raise _failure(target, "the server ended before it generated a token") from None
            if time.monotonic() >= deadline:
                raise _failure(target, f"no token came within {timeout_s:.0f} s") from error
        time.sleep(PAUSE_S)


def main(argv: list[str]) -> int:
    """`appliance-engine probe`: prints one JSON document."""
    parser = argparse.ArgumentParser(prog="appliance-engine probe", description="Ask a served model for one token.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", type=Path, help="unix socket of the server")
    where.add_argument("--url", help="https://HOST:PORT of the server")
    parser.add_argument("--ca", type=Path, help="with --url: certificates to trust; default: the system's")
    parser.add_argument("--cert", type=Path, help="with --url: certificate to show")
    parser.add_argument("--key", type=Path, help="with --url: its key")
    parser.add_argument("--model", required=True, help="name that the model is served by")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIRECTORY",
        help="of the served model: with a chat template in it a chat is asked for; without it, or without this option, a completion",
    )
    parser.add_argument(
        "--task", choices=["generate", *pooling.ENDPOINTS], default="generate", help="what the model does"
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--wait", action="store_true", help="wait for a server that is starting")
    parser.add_argument("--pid", type=int, help="with --wait: give up when this process is gone")
    options = parser.parse_args(argv)
    target = options.socket or _https(options.url, options.ca, options.cert, options.key)
    chats = _chats(options.folder) if options.folder else False
    task: Task = "" if options.task == "generate" else options.task
    if options.wait:
        alive = _watch(options.pid)
        answer = wait_for_token(target, options.model, options.timeout, chats=chats, task=task, alive=alive)
    else:
        answer = ask_token(target, options.model, options.timeout, chats=chats, task=task)
    print(json.dumps(asdict(answer)))  # noqa: T201
    return 0


def _chats(folder: Path) -> bool:
    try:
        return chat.folder_has_template(folder)
    except OSError as error:
        raise InputError(
            f"the model's folder cannot be read: {error.strerror}", where=str(folder), remedy="Correct --folder."
        ) from error


def _post(target: Target, path: str, body: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and at most one byte more than ``MAX_ANSWER`` of the body, all within ``timeout_s`` seconds."""
    connection = _connection(target, timeout_s)
    late = threading.Event()
    cut = None
    try:
        connection.connect()
        # The socket's own timeout starts anew with every byte, so a server that drips would never end it.
        cut = threading.Timer(timeout_s, _cut, [connection.sock, late])
        cut.daemon = True
        cut.start()
        connection.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        raw = response.read(MAX_ANSWER + 1)
        if late.is_set():
            raise TimeoutError
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise _failure(target, f"the model did not answer within {timeout_s:g} s") from error
        raise _failure(target, f"the model does not answer: {error or type(error).__name__}") from error
    finally:
        if cut is not None:
            cut.cancel()
        connection.close()
    return response.status, raw


def _connection(target: Target, timeout_s: float) -> http.client.HTTPConnection:
    if isinstance(target, Https):
        return http.client.HTTPSConnection(target.host, target.port, timeout=timeout_s, context=target.context)
    return _UnixConnection(target, timeout_s)


def _cut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        # Not the method of an SSLSocket: that would change its state under the thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _tokens(raw: bytes, target: Target) -> int:
    try:
        tokens = int(strictjson.loads(raw)["usage"]["completion_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise _failure(target, "the model's answer is not what the API promises") from error
    if tokens < 1:
        raise _failure(target, "the model answered without a token")
    return tokens


def _failure(target: Target, what: str) -> ApplianceError:
    return ApplianceError(what, where=str(target), remedy=_JOURNAL)


def _https(url: str, ca: Path | None, certificate: Path | None, key: Path | None) -> Https:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise InputError(f"{url} is not https://HOST:PORT", remedy="Give scheme, host and port only.")
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            f"the certificates cannot be used: {error}", remedy="Check the files given to --ca, --cert and --key."
        ) from error
    return Https(parts.hostname, parts.port or 443, context)


def _watch(pid: int | None) -> Callable[[], bool]:
    """Whether process ``pid`` runs. A pidfd, because the sandbox hides even the same user's processes in /proc."""
    if pid is None:
        return lambda: True
    try:
        process = os.pidfd_open(pid)  # kept until this command ends; it becomes readable when the process has
    except ProcessLookupError:
        return lambda: False
    return lambda: not select.select([process], [], [], 0)[0]


if __name__ == "__main__":
    import sys

    try:
        sys.exit(main(sys.argv[1:]))
    except ApplianceError as failure:
        sys.stderr.write(f"{failure}\n")
        sys.exit(failure.exit_code)
