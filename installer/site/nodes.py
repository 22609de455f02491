"""Call the engine of nodes over SSH, all at once; what they answer is text from a machine that may be broken."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from engine import strictjson
from engine.report import printable
from engine.talk import Talk, talk
from installer.site import skew
from installer.site.inventory import Connection, Host, Inventory
from installer.site.remote import login

WORKERS = 32
MAX_OUTPUT = 4 << 20  # bytes
ENGINE = "/opt/appliance/current/engine/bin/appliance-engine"


@dataclass(frozen=True)
class Reply:
    """One node's answer. ``data`` is None when there is none; ``failure`` then says why, ``reached`` whether the node was there, and ``absent``
    whether it was there and has no engine."""

    data: dict[str, Any] | None
    failure: str = ""
    reached: bool = True
    absent: bool = False


def call(
    connection: Connection, words: Sequence[str], *, timeout_s: float, stdin: bytes = b"", engine: str = ENGINE
) -> Reply:
    """One verb of the engine on one node."""
    if connection.unsupported:
        return Reply(
            None, f"the inventory asks for {connection.unsupported}, which is not supported here", reached=False
        )
    argv = [*login(connection), shlex.join([engine, *words])]
    said = talk(argv, stdin=stdin, timeout_s=timeout_s, limit_bytes=MAX_OUTPUT)
    if why := skew.refusal(said, words, connection):
        return Reply(None, why)
    return understand(said, engine)


def call_all(
    inventory: Inventory, hosts: Iterable[Host], words: Sequence[str], *, timeout_s: float
) -> dict[str, Reply]:
    """The same verb on many nodes."""
    asked = list(hosts)
    with ThreadPoolExecutor(max(1, min(WORKERS, len(asked)))) as pool:
        replies = pool.map(lambda h: call(connection(inventory, h), words, timeout_s=timeout_s), asked)
        return {h.name: r for h, r in zip(asked, replies, strict=True)}


def connection(inventory: Inventory, host: Host) -> Connection:
    """How to log in to a host of the inventory."""
    return inventory.connections.get(host.name, Connection(host.address))


def understand(said: Talk, engine: str = ENGINE) -> Reply:
    """What an engine's answer means. Pure."""
    if said.cut:
        return Reply(
            None,
            "it did not answer in time" if said.cut == "time" else "it answered too much",
            reached=said.cut != "time",
        )
    if said.code == 255:
        return Reply(None, f"it cannot be reached: {_last(said.stderr)}", reached=False)
    if said.code == 0:
        lines = [line for _, line in said.lines]
        # A login shell may greet; the answer itself is the last line, or all of them.
        for text in (b"\n".join(lines), *lines[-1:]):
            try:
                data = strictjson.loads(text)
            except ValueError:
                continue
            if isinstance(data, dict):
                return Reply(data)
    return Reply(None, _error(said.stderr), absent=_absent(said.stderr, engine))


def _absent(stderr: str, engine: str) -> bool:
    """Whether a shell, or sudo, says that the engine is not there."""
    return any(
        engine in line and ("No such file" in line or "not found" in line) for line in stderr.strip().splitlines()[-1:]
    )


def _error(stderr: str) -> str:
    """The engine's own words, which end with its error as JSON."""
    last = stderr.strip().splitlines()[-1:] or [""]
    try:
        error = strictjson.loads(last[0].encode())["error"]
        return printable(f"{error['what']} ({error['where']}). {error['remedy']}", keep="")
    except (ValueError, LookupError, TypeError):
        return printable(_last(stderr), keep="") or "it gave no answer"


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else ""
