"""What was seen of a process that named a destination, and how it is read from the bytes that it gave the kernel. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

DNS = 53
MAX_NAME = 253
MAX_ARGUMENTS = 400  # characters of a command line that are kept
HIDDEN = "…"
_SECRET = re.compile(r"(?i)(pass(word|phrase|wd)?|secret|token|api[-_]?key|credential|authorization|bearer)")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Sighting:
    """One system call that names something outside the process's own machine, or a name that it looked up.

    ``kind`` is tcp, udp, raw (another protocol of IP), frame (past the IP stack) or lookup. ``time`` in seconds since 1970.
    ``name`` is the name asked for.
    """

    time: float
    pid: int
    process: str
    command: str
    unit: str
    kind: str
    address: str
    port: int
    name: str = ""


def destination(raw: bytes) -> tuple[str, int] | None:
    """Address and port in a ``struct sockaddr``; None when it is of a family that leads nowhere outside, or cut short."""
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_INET and len(raw) >= 8:
        (port,) = struct.unpack_from("!H", raw, 2)
        return str(ipaddress.IPv4Address(raw[4:8])), port
    if family == socket.AF_INET6 and len(raw) >= 24:
        (port,) = struct.unpack_from("!H", raw, 2)
        address = ipaddress.IPv6Address(raw[8:24])
        return str(address.ipv4_mapped or address), port
    return None


def stays(address: str, port: int) -> bool:
    """Whether it goes to the machine itself. A query to a name server does not, wherever it is: it asks for elsewhere."""
    parsed = ipaddress.ip_address(address)
    return (parsed.is_loopback or parsed.is_unspecified) and port != DNS


def question(message: bytes) -> str:
    """The name in a DNS query (RFC 1035, 4.1), or empty when it is none."""
    if len(message) < 17 or message[2] & 0x80 or struct.unpack_from("!H", message, 4)[0] != 1:
        return ""
    labels, at = [], 12
    while at < len(message) and (length := message[at]):
        if length > 63:
            return ""
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", errors="replace"))
        at += 1 + length
    name = ".".join(labels)
    return name if at < len(message) and 0 < len(name) <= MAX_NAME else ""


def command(arguments: Sequence[str]) -> str:
    """A command line for people, without what may be a secret: the value after such a word, and userinfo in addresses."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        if hide and not argument.startswith("-"):
            shown.append(HIDDEN)
            hide = False
            continue
        word, equals, _ = argument.partition("=")
        hide = bool(_SECRET.search(word)) and not equals
        secret = equals and _SECRET.search(word)
        shown.append(f"{word}={HIDDEN}" if secret else _USERINFO.sub(f"{HIDDEN}@", argument))
    line = " ".join(" ".join(shown).split())
    return line if len(line) <= MAX_ARGUMENTS else line[:MAX_ARGUMENTS] + HIDDEN


def unit(cgroups: str) -> str:
    """The systemd unit in ``/proc/PID/cgroup``: the innermost service or scope, or empty."""
    found = ""
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "name=systemd" or (number == "0" and not found):
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            found = units[-1] if units else found
    return found
