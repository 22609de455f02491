"""Run the probe on one node over SSH, and take its answer for what it is: text from a machine that is not trusted yet."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engine.preflight.facts import Facts, Question
from engine.talk import Talk, talk
from installer.site.inventory import Connection
from installer.site.probescript import script

TIMEOUT_S = 90.0
MAX_OUTPUT = 4 << 20  # bytes; a node with eight GPUs says 40 kB
MAX_TEXT = 4096  # characters of one text
MAX_ITEMS = 4096
MAX_DEPTH = 12
ADAPTER = TypeAdapter(Facts)


@dataclass(frozen=True)
class Answer:
    """What came back: facts, or why there are none.

    Attributes:
        failure: unreachable, hostkey, login, sudo, python, old, unsupported, late, flood or garbled.
        detail: the node's or ssh's own words.
        offset_s: the node's clock less ours, and ``offset_error_s`` how far that may be off.
    """

    facts: Facts | None = None
    failure: str = ""
    detail: str = ""
    offset_s: float = 0.0
    offset_error_s: float = 0.0


def ask(connection: Connection, question: Question, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """The facts of a node. Whatever goes wrong on the way is an answer, too."""
    if connection.unsupported:
        return Answer(failure="unsupported", detail=connection.unsupported)
    word, begin = secrets.token_hex(16), time.time()
    said = talk(argv(connection), stdin=script(question, word), timeout_s=timeout_s, limit_bytes=MAX_OUTPUT)
    return understand(said, word, begin, connection)


def argv(connection: Connection) -> list[str]:
    """The command that runs a program, given on standard input, as root on the node."""
    return [*login(connection), connection.python, "-I", "-B", "-"]


def login(connection: Connection) -> list[str]:
    """The start of an ssh command that runs as root. Host keys are always checked, and our known hosts stay as they are; ssh takes
    what stands first."""
    options = [
        "BatchMode=yes", "ControlMaster=no", "StrictHostKeyChecking=yes", "UpdateHostKeys=no", "ConnectTimeout=10", "ServerAliveInterval=10",
        "ServerAliveCountMax=3", "LogLevel=ERROR",
    ]  # fmt: skip
    flat = [part for option in options for part in ("-o", option)]
    login = [
        *(["-p", str(connection.port)] if connection.port else []),
        *(["-l", connection.user] if connection.user else []),
    ]
    key = ["-i", connection.key] if connection.key else []
    root = [] if connection.user == "root" else ["sudo", "-n", "--"]
    return [
        "ssh",
        "-T",
        *flat,
        *login,
        *key,
        *connection.arguments,
        "--",
        connection.address,
        *root,
    ]


def understand(said: Talk, word: str, begin: float, connection: Connection) -> Answer:
    """Find our lines among what was said and check them. Pure."""
    ours: dict[str, tuple[float, bytes]] = {}
    for when, line in said.lines:
        mark, _, rest = line.partition(b" ")
        if mark == word.encode():
            verb, _, body = rest.partition(b" ")
            ours.setdefault(verb.decode(errors="replace"), (when, body))
    if "old" in ours:
        return Answer(failure="old", detail=ours["old"][1].decode(errors="replace")[:40])
    if "facts" not in ours:
        return Answer(failure=failure_of(said, connection), detail=said.stderr.strip()[-600:])
    try:
        facts = parse(ours["facts"][1])
        arrived, told = ours["hello"]
        middle, width = (begin + arrived) / 2, (arrived - begin) / 2
        return Answer(facts, "", "", float(told) - middle, width)
    except (KeyError, ValueError, RecursionError) as error:
        return Answer(failure="garbled", detail=str(error)[:300])


def parse(data: bytes) -> Facts:
    """Facts from a node's text.

    Raises:
        ValueError: they are not what was asked for; pydantic's ValidationError is one.
    """
    value = json.loads(data)
    bounded(value)
    if isinstance(value, dict) and set(value) - set(Facts.__dataclass_fields__):
        raise ValueError("it names facts that nobody asked for")
    try:
        return ADAPTER.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def bounded(value: Any, depth: int = MAX_DEPTH, max_text: int = MAX_TEXT) -> None:
    """Refuse what no node of ours says.

    Raises:
        ValueError: a text, a number, a list or the nesting is beyond reason.
    """
    if depth < 0:
        raise ValueError("it is nested too deep")
    if isinstance(value, str) and len(value) > max_text:
        raise ValueError("a text in it is too long")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise ValueError("a number in it is too large")
    if isinstance(value, float) and not abs(value) < 1e18:  # also what is no number
        raise ValueError("a number in it is no number")
    if isinstance(value, dict | list):
        if len(value) > MAX_ITEMS:
            raise ValueError("a list in it is too long")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            bounded(item, depth - 1, max_text)


def failure_of(said: Talk, connection: Connection) -> str:
    """The word for why nothing of ours was heard. Pure."""
    text = said.stderr
    if said.cut:
        return "late" if said.cut == "time" else "flood"
    if "Host key verification failed" in text or "HOST IDENTIFICATION HAS CHANGED" in text:
        return "hostkey"
    if said.code == 255:
        return "login" if "Permission denied" in text else "unreachable"
    if "sudo" in text and ("password is required" in text or "terminal is required" in text or "not allowed" in text):
        return "sudo"
    if said.code == 127 or connection.python in text:
        return "sudo" if "sudo: not found" in text or "sudo: command not found" in text else "python"
    return "garbled"
