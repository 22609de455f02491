"""Addresses that a node only has for a while, and who gave them: asked of the kernel, and of what DHCP clients leave behind."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.preflight import reading
from engine.preflight.facts import Lease

TIMEOUT_S = 3.0
MAX_LEASES = 64
# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_DUMP, _REQUEST, _DONE, _ERROR = 0x300, 0x1, 3, 2
_GETADDR, _NEWADDR = 22, 20
_ADDRESS, _LOCAL, _FLAGS, _CACHEINFO = 1, 2, 8, 6
_PERMANENT, _TEMPORARY = 0x80, 0x01
_HEADER, _MESSAGE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBi"), struct.Struct("=HH")
# systemd-networkd and NetworkManager write KEY=VALUE, by number or name of the interface; dhclient a list, of which the last counts.
_KEY_VALUE = re.compile(r"^SERVER_ADDRESS=(\S{1,64})", re.M)
_DHCLIENT = re.compile(r"option dhcp-server-identifier (\S{1,64});")


def leases(root: Path = Path("/")) -> tuple[Lease, ...]:
    """Addresses with an end, but for temporary ones that privacy extensions make of others; the server where a client wrote it down."""
    found = []
    for index, address, prefix, seconds in _addresses():
        name = _name(index)
        if name and name != "lo":
            server = _server(root, index, name) if "." in address else ""
            found.append(Lease(name, address, prefix, seconds, server))
    return tuple(sorted(found, key=lambda lease: (lease.interface, lease.address))[:MAX_LEASES])


def _addresses() -> Iterator[tuple[int, str, int, int]]:
    """Number of the interface, address, prefix and seconds left, of every address that is not there for good."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(TIMEOUT_S)
        size = _HEADER.size + _MESSAGE.size
        kernel.send(_HEADER.pack(size, _GETADDR, _REQUEST | _DUMP, 1, 0) + _MESSAGE.pack(0, 0, 0, 0, 0))
        while True:
            data = kernel.recv(1 << 16)
            while len(data) >= _HEADER.size:
                length, kind = _HEADER.unpack_from(data)[:2]
                if kind in (_DONE, _ERROR) or length < _HEADER.size:
                    return
                if kind == _NEWADDR and (entry := _entry(data[_HEADER.size : length])):
                    yield entry
                data = data[(length + 3) & ~3 :]


def _entry(body: bytes) -> tuple[int, str, int, int] | None:
    family, prefix, flags, _, index = _MESSAGE.unpack_from(body)
    attributes, at = {}, _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    if len(attributes.get(_FLAGS, b"")) == 4:
        flags = struct.unpack("=I", attributes[_FLAGS])[0]
    raw = attributes.get(_LOCAL) or attributes.get(_ADDRESS)
    # The same bit means temporary in IPv6, and in IPv4 only that the network has another address here.
    passing = family == socket.AF_INET6 and flags & _TEMPORARY
    if raw is None or flags & _PERMANENT or passing:
        return None
    left = struct.unpack_from("=II", attributes.get(_CACHEINFO, b"\0" * 8))[1]
    return index, str(ipaddress.ip_address(raw)), prefix, left


def _name(index: int) -> str:
    with suppress(OSError):
        return socket.if_indextoname(index)
    return ""


def _server(root: Path, index: int, name: str) -> str:
    """Address of the DHCP server; empty when no client that is known here wrote it down."""
    files = [
        root / f"run/systemd/netif/leases/{index}",
        *sorted((root / "var/lib/NetworkManager").glob(f"*-{name}.lease")),
    ]
    for file in files:
        if match := _KEY_VALUE.search(reading.text(file)):
            return match[1]
    for file in sorted((root / "var/lib/dhcp").glob(f"dhclient*{name}*lease*")):
        if told := _DHCLIENT.findall(reading.text(file)):
            return str(told[-1])
    return ""
