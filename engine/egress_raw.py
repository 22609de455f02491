"""What only CAP_NET_RAW may send: frames past the IP stack, and ICMP. A helper of its own, so that the proof needs no such right.

    python -m engine.egress_raw     one question as a line of JSON on standard input, one answer on standard output

The helper sends nothing but the fixed packets below, whatever it is asked: the question chooses target and interface only.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine import strictjson
from engine.errors import ApplianceError, Exit, ResourceError

RAW_KINDS = ("icmp", "frame")
UDP_PORT = 53
FRAMES_SENT = 2  # an IP packet, and a frame of no IP protocol
WORDS = b"egress probe of the appliance"
TIMEOUT_S = 10.0
MAX_LINE = 1024

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BIND_TO_DEVICE = getattr(socket, "SO_BINDTODEVICE", 25)
_LOCAL_EXPERIMENT = 0x88B5  # IEEE 802's EtherType for trials: no IP stack answers it
_NOBODY = bytes.fromhex("020000000001")  # locally administered
_SENDER = bytes.fromhex("020000000002")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
_OUTCOMES = ("refused", "blocked", "unroutable", "sent")


class Raw(Protocol):
    """Sends one of ``RAW_KINDS`` and says what became of it."""

    def send(self, kind: str, target: str, interface: str) -> tuple[str, str]:
        """Outcome and detail, as in engine.egress.Attempt."""


class Here:
    """This process sends; it needs CAP_NET_RAW."""

    def send(self, kind: str, target: str, interface: str) -> tuple[str, str]:
        address = ipaddress.ip_address(target)
        try:
            return _icmp(address, interface) if kind == "icmp" else _frame(address, interface)
        except PermissionError as error:
            raise ApplianceError("a raw packet needs root", remedy="Run this as root.") from error


class Helper:
    """The unit behind a socket sends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def send(self, kind: str, target: str, interface: str) -> tuple[str, str]:
        question = json.dumps({"kind": kind, "target": target, "interface": interface}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(TIMEOUT_S)
                line.connect(str(self.path))
                line.sendall(question)
                line.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := line.recv(MAX_LINE):
                    answer += piece
                    if len(answer) > MAX_LINE:
                        raise ValueError("the answer is too long")
            said = strictjson.loads(answer)
            outcome, detail = said["outcome"], said["detail"]
            if outcome not in _OUTCOMES or not isinstance(detail, str):
                raise ValueError(f"it said {outcome!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResourceError(
                f"the helper that sends raw packets does not answer: {error}",
                where=str(self.path),
                remedy="Look at it: journalctl -u 'appliance-egress-raw@*'; run the firewall role again.",
            ) from error
        return outcome, detail


def main() -> int:
    """Answer one question and end."""
    try:
        said = strictjson.loads(sys.stdin.buffer.readline(MAX_LINE))
        kind, target, interface = said["kind"], str(ipaddress.ip_address(said["target"])), said["interface"]
        if kind not in RAW_KINDS or not _INTERFACE.fullmatch(interface):
            raise ValueError("no such kind or interface")
        outcome, detail = Here().send(kind, target, interface)
    except (ApplianceError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"{error}\n")
        return int(Exit.USAGE)
    sys.stdout.write(json.dumps({"outcome": outcome, "detail": detail}) + "\n")
    return int(Exit.OK)


def bound(address: Address, kind: int, interface: str, protocol: int = 0) -> socket.socket:
    """A socket tied to the interface: without a default route it still meets the door instead of a missing route."""
    out = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind, protocol)
    out.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, interface.encode() + b"\0")
    return out


def outcome_of(attempt: Callable[[], object], *, done: str) -> tuple[str, str]:
    """What became of an attempt, in words and as an errno."""
    try:
        attempt()
    except TimeoutError:
        return "blocked", ""
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
            return "unroutable", name
        return "refused", name
    return done, ""


def _icmp(address: Address, interface: str) -> tuple[str, str]:
    version6 = address.version == 6
    protocol = socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP
    with bound(address, socket.SOCK_RAW, interface, protocol) as out:
        out.settimeout(TIMEOUT_S)
        bare = struct.pack("!BBHHH", 128 if version6 else 8, 0, 0, os.getpid() & 0xFFFF, 1) + WORDS.ljust(32, b"\0")
        # For ICMPv6 the kernel fills in the checksum itself.
        packet = bare if version6 else bare[:2] + struct.pack("!H", _checksum(bare)) + bare[4:]
        return outcome_of(lambda: out.sendto(packet, (str(address), 0)), done="sent")


def _frame(address: Address, interface: str) -> tuple[str, str]:
    """Two frames past the IP stack: a UDP packet to ``address``, and one of no IP protocol at all."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.settimeout(TIMEOUT_S)
        try:
            out.bind((interface, 0))
        except OSError as error:
            return "unroutable", errno.errorcode.get(error.errno or 0, str(error))
        to = gateway(interface) or _NOBODY
        frames = (_ip_frame(address, to), to + _SENDER + struct.pack("!H", _LOCAL_EXPERIMENT) + WORDS.ljust(46, b"\0"))
        outcomes = [outcome_of(lambda frame=frame: out.send(frame), done="sent") for frame in frames]  # type: ignore[misc]
    return next((found for found in outcomes if found[0] == "sent"), outcomes[0])


def gateway(interface: str, proc: Path = Path("/proc/net")) -> bytes:
    """Hardware address of the IPv4 default gateway behind ``interface``, which a frame that got out would reach; empty when
    there is none or nobody asked for it lately."""
    try:
        routes = [line.split() for line in (proc / "route").read_text().splitlines()[1:]]
        hops = {
            str(ipaddress.IPv4Address(int(r[2], 16).to_bytes(4, sys.byteorder)))
            for r in routes
            if r[0] == interface and r[1] == "00000000" and r[2] != "00000000"
        }
        neighbours = [line.split() for line in (proc / "arp").read_text().splitlines()[1:]]
        return next(
            (bytes.fromhex(n[3].replace(":", "")) for n in neighbours if n[0] in hops and n[5] == interface), b""
        )
    except (OSError, ValueError, IndexError):
        return b""


def _ip_frame(address: Address, to: bytes = _NOBODY) -> bytes:
    udp = struct.pack("!HHHH", UDP_PORT, UDP_PORT, 8 + len(WORDS), 0) + WORDS
    if isinstance(address, ipaddress.IPv6Address):
        head = struct.pack("!IHBB", 6 << 28, len(udp), socket.IPPROTO_UDP, 64) + bytes(16) + address.packed
        return to + _SENDER + struct.pack("!H", 0x86DD) + head + udp
    bare = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + bytes(4) + address.packed
    return to + _SENDER + struct.pack("!H", 0x0800) + bare[:10] + struct.pack("!H", _checksum(bare)) + bare[12:] + udp


def _checksum(data: bytes) -> int:
    """RFC 1071, over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~((total >> 16) + total) & 0xFFFF


if __name__ == "__main__":
    sys.exit(main())
