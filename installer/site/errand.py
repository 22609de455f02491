"""Send nodes on errands over SSH, all at once, and take what they answer for what it is: text of machines that may be broken."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from engine.errors import ApplianceError, InputError, NodeError
from engine.report import printable
from engine.talk import Talk, talk
from installer.site.inventory import Connection, Host, Inventory
from installer.site.preflight import FAILURES
from installer.site.probescript import errand as script
from installer.site.remote import argv, bounded, failure_of

TIMEOUT_S = 60.0
MAX_OUTPUT = 4 << 20  # bytes
MAX_TEXT = 512 << 10  # characters of one text; a journal's excerpt is the longest
WORKERS = 32


@dataclass(frozen=True)
class Reply:
    """What a node said: ``value``, or why there is none in words for a person."""

    node: str
    value: Mapping[str, Any] | None
    what: str = ""
    remedy: str = ""
    unreachable: bool = False

    def must(self) -> Mapping[str, Any]:
        """The value.

        Raises:
            NodeError: there is none.
        """
        if self.value is None:
            raise NodeError(self.what, where=self.node, remedy=self.remedy)
        return self.value


Send = Callable[[Host, Connection, str, Mapping[str, Any]], Reply]


def send(
    host: Host,
    connection: Connection,
    verb: str,
    question: Mapping[str, Any],
    *,
    timeout_s: float = TIMEOUT_S,
    max_output: int = MAX_OUTPUT,
) -> Reply:
    """One errand to one node. Whatever goes wrong on the way is an answer, too."""
    if connection.unsupported:
        return _failed(host, "unsupported", connection.unsupported)
    word = secrets.token_hex(16)
    said = talk(argv(connection), stdin=script(verb, question, word), timeout_s=timeout_s, limit_bytes=max_output)
    return understand(said, word, host, connection)


def understand(said: Talk, word: str, host: Host, connection: Connection) -> Reply:
    """Find our line among what was said and check it. Pure."""
    for _, line in said.lines:
        mark, _, rest = line.partition(b" ")
        verb, _, body = rest.partition(b" ")
        if mark != word.encode():
            continue
        if verb == b"old":
            return _failed(host, "old", body.decode(errors="replace")[:40])
        try:
            value = json.loads(body)
            bounded(value, max_text=MAX_TEXT)
        except (ValueError, RecursionError) as error:
            return _failed(host, "garbled", str(error)[:300])
        if not isinstance(value, dict):
            return _failed(host, "garbled", "it is no table")
        if isinstance(refusal := value.get("error"), dict):
            what, where = str(refusal.get("what", "")), str(refusal.get("where", ""))
            told = f"{where}: {what}" if where else what
            return Reply(host.name, None, _line(told), _line(str(refusal.get("remedy", ""))))
        return Reply(host.name, value)
    return _failed(host, failure_of(said, connection), said.stderr.strip()[-600:])


def everywhere(hosts: Iterable[Host], work: Callable[[Host], Reply]) -> tuple[Reply, ...]:
    """``work`` on all hosts at once; replies in the order of ``hosts``. A failure of ours on one host is that host's reply."""
    many = tuple(hosts)

    def one(host: Host) -> Reply:
        try:
            return work(host)
        except ApplianceError as error:
            return Reply(host.name, None, _line(error.what), _line(error.remedy))

    with ThreadPoolExecutor(min(WORKERS, max(1, len(many)))) as pool:
        return tuple(pool.map(one, many))


def nodes(inventory: Inventory, wanted: Iterable[str] = ()) -> tuple[Host, ...]:
    """The nodes of a site, or those that are named.

    Raises:
        InputError: one is named that is not there, or there are none.
    """
    all_nodes = [h for h in inventory.hosts if h.groups != ("control",)]
    asked = set(wanted)
    if unknown := sorted(asked - {h.name for h in all_nodes}):
        raise InputError(
            f"{unknown[0]} is not in the inventory", where=str(inventory.path),
            remedy=f"It has: {', '.join(h.name for h in all_nodes)}.",
        )  # fmt: skip
    if not all_nodes:
        raise InputError("the inventory has no nodes", where=str(inventory.path), remedy="Add hosts to gpu or gateway.")
    return tuple(h for h in all_nodes if not asked or h.name in asked)


def connection(inventory: Inventory, host: Host) -> Connection:
    return inventory.connections.get(host.name, Connection(host.address))


def _failed(host: Host, why: str, detail: str) -> Reply:
    what, remedy = FAILURES[why]
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    told = f"{what}: {lines[-1]}" if lines else what
    return Reply(host.name, None, _line(told), remedy.format(address=host.address), why == "unreachable")


def _line(text: str) -> str:
    """Words of a node reach a terminal: they must not steer it."""
    return printable(text, keep="")[:2000]
