"""nftables as the firewall sees it: two tables of our own, text in, text out, counters as numbers.

Nothing here touches a table that is not ours. Every rule file is read for that before the kernel gets it, so that
no mistake in a template can flush or change what the operator or another program loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from engine.process import ProcessError, run

FAMILIES = ("inet", "netdev")  # in the order they are loaded: sockets are shut before interfaces are looked for
TABLE = "appliance"
TIMEOUT_S = 30.0

_SIOCGIFFLAGS, _UP, _LOOPBACK = 0x8913, 0x1, 0x8  # linux/sockios.h, linux/if.h
_HOOK = re.compile(r'\bhook\s+egress\s+device\s+"([^"]+)"')
_WORD = re.compile(r'"[^"]*"|#[^\n]*|[{};\n]|[^\s{};"#]+')


def replacing(family: str, body: str = "") -> str:
    """Text that replaces our table of ``family`` by ``body`` in one transaction; an empty ``body`` removes it."""
    return f"table {family} {TABLE}\ndelete table {family} {TABLE}\n{body}"


def only_ours(text: str, where: str = "rules") -> None:
    """Refuse rules that say anything at top level but declaring, deleting and filling our two tables.

    Raises:
        InputError: another statement is there, such as ``flush ruleset``, ``include`` or someone else's table.
    """
    depth = 0
    statement: list[str] = []
    for word in [*_WORD.findall(text), "\n"]:
        if word.startswith("#"):
            continue
        if word == "include":  # nft's scanner takes it anywhere, and the other file could close our braces
            _permitted(["include"], opens=False, where=where)
        if depth == 0 and word in ("\n", ";", "{"):
            if statement:
                _permitted(statement, opens=word == "{", where=where)
            elif word == "{":
                _permitted(["{"], opens=True, where=where)
            statement = []
        elif depth == 0 and word != "}":
            statement.append(word)
        depth += {"{": 1, "}": -1}.get(word, 0)
        if depth < 0:
            raise InputError("the rules close a brace that was never opened", where=where, remedy="Fix the rule file.")


def _permitted(words: list[str], *, opens: bool, where: str) -> None:
    ours = any(words == ["table", family, TABLE] for family in FAMILIES)
    drops = any(words == ["delete", "table", family, TABLE] for family in FAMILIES)
    if not (ours or (drops and not opens)):
        raise InputError(
            f"the rules say `{' '.join(words)}`, but only the tables inet {TABLE} and netdev {TABLE} are ours to change",
            where=where,
            remedy="Remove that statement; load other tables with the operator's own ruleset.",
        )


def devices(netdev: str) -> list[str]:
    """Names of the interfaces whose egress the text hooks, in order."""
    return list(dict.fromkeys(_HOOK.findall(netdev)))


def without_devices(netdev: str, missing: set[str]) -> str:
    """The same text without the one-line base chains of ``missing`` interfaces.

    Kernels before 6.16 refuse a whole table when one interface is not there yet; the others must still be shut.
    """
    return "".join(
        line
        for line in netdev.splitlines(keepends=True)
        if not (found := _HOOK.search(line)) or found.group(1) not in missing
    )


def absent(names: list[str]) -> set[str]:
    """Those of ``names`` that are no interface of this network namespace now."""
    return set(names) - {name for _, name in socket.if_nameindex()}


def present() -> list[str]:
    """Every interface of this network namespace that is up, but loopback; sorted."""
    found = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            asked = struct.pack("16sH14x", name.encode(), 0)
            with contextlib.suppress(OSError):  # it went away between the two questions
                flags = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked), 16)[0]
                if flags & _UP and not flags & _LOOPBACK:
                    found.append(name)
    return sorted(found)


@dataclass(frozen=True)
class Counter:
    """A named counter of one of our tables."""

    packets: int
    bytes: int


class Nft:
    """The kernel's side, through the ``nft`` tool."""

    def check(self, text: str, where: str = "rules") -> None:
        """Ask the kernel whether it would take ``text``, and change nothing.

        Raises:
            InputError: the text is no valid rule set, or touches tables that are not ours.
        """
        only_ours(text, where)
        try:
            self._nft("-c", "-f", "-", stdin=text)
        except ProcessError as error:
            raise InputError(
                f"nftables refuses the rules: {_first_error(error.stderr)}",
                where=where,
                remedy="Nothing was changed. Correct the appliance_firewall_* variables and run again.",
            ) from error

    def load(self, text: str) -> None:
        """Load ``text`` as one transaction: all of it or nothing."""
        only_ours(text)
        self._nft("-f", "-", stdin=text)

    def listing(self, family: str, *, stateless: bool = True) -> str:
        """Our table of ``family`` as the kernel has it, empty when it is not loaded."""
        return self._listing(family, stateless) if family in self._loaded() else ""

    def digest(self) -> str:
        """Fingerprint of both tables as loaded, without counter values; empty when neither is there."""
        loaded = self._loaded()
        text = "".join(self._listing(family, stateless=True) for family in FAMILIES if family in loaded)
        return hashlib.sha256(text.encode()).hexdigest() if text else ""

    def counters(self) -> dict[str, Counter]:
        """Our named counters as ``family.name``."""
        listed = json.loads(self._nft("-j", "list", "counters"))
        entries = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
        return {
            f"{entry['family']}.{entry['name']}": Counter(int(entry["packets"]), int(entry["bytes"]))
            for entry in entries
            if entry["table"] == TABLE and entry["family"] in FAMILIES
        }

    def _listing(self, family: str, stateless: bool) -> str:
        return self._nft(*(["-s"] if stateless else []), "list", "table", family, TABLE)

    def _loaded(self) -> set[str]:
        listed = json.loads(self._nft("-j", "list", "tables"))
        tables = [entry["table"] for entry in listed["nftables"] if "table" in entry]
        return {table["family"] for table in tables if table["name"] == TABLE}

    @staticmethod
    def _nft(*args: str, stdin: str | None = None) -> str:
        return run([program(), *args], stdin=stdin, timeout_s=TIMEOUT_S, package="nftables").stdout


def installed() -> bool:
    """Whether this machine has ``nft``."""
    return Path(program()).is_absolute()


def program() -> str:
    """Where ``nft`` is: sbin is not on everybody's PATH, and a rollback must find it without one."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nft"


def _first_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.lstrip().startswith("^")]
    return "; ".join(line.strip() for line in lines[:2]) or "no reason given"
