"""Proof that a node cannot reach out: try it, see it fail, and see the counter of the door rise.

Sockets meet the chain ``output`` of ``inet appliance``; raw frames, which never pass that, meet the egress chains of
``netdev appliance``. An attempt counts as denied only when it failed. It counts as evidence for a door only when that
door's counter rose at the same time; the proof holds when every attempt was denied and both doors gave evidence.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import json
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from engine import nft
from engine.errors import ApplianceError, Exit, InputError

TARGETS = ("192.0.2.1", "198.51.100.1", "2001:db8::1")  # documentation networks: nobody is there, should a door be open
TCP_PORT = 443
UDP_PORT = 53
TIMEOUT_S = 2.0
SOCKETS = "inet output"
FRAMES = "netdev egress"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BIND_TO_DEVICE = getattr(socket, "SO_BINDTODEVICE", 25)
_LOCAL_EXPERIMENT = 0x88B5  # IEEE 802's EtherType for trials: no IP stack answers it
_NOBODY = bytes.fromhex("020000000001") + bytes.fromhex("020000000002")  # locally administered, to and from
_WORDS = b"egress probe of the appliance"


@dataclass(frozen=True)
class Attempt:
    """One try to reach out.

    ``outcome`` is ``refused`` (an error at once), ``blocked`` (nothing came back in time), ``unroutable`` (no route, so
    no door was met), ``connected`` or ``sent`` (it got out). ``hook`` is the door whose counter rose, or empty.
    """

    kind: str
    target: str
    interface: str
    outcome: str
    hook: str
    counted: int
    detail: str = ""

    @property
    def denied(self) -> bool:
        return self.outcome in ("refused", "blocked", "unroutable")


@dataclass(frozen=True)
class Proof:
    """All attempts, and whether together they prove that the node is shut."""

    attempts: list[Attempt]

    @property
    def shut(self) -> bool:
        """Every attempt was denied, each door met was seen counting, and both doors were met."""
        witnessed = all(attempt.hook for attempt in self.attempts if attempt.outcome != "unroutable")
        doors = {attempt.hook for attempt in self.attempts if attempt.hook}
        return witnessed and doors == {SOCKETS, FRAMES} and all(attempt.denied for attempt in self.attempts)


def probe(
    targets: Sequence[str] = TARGETS,
    timeout_s: float = TIMEOUT_S,
    *,
    interfaces: Sequence[str] = (),
    kernel: nft.Nft | None = None,
) -> list[Attempt]:
    """Try TCP, UDP and raw frames to ``targets`` and return what became of each. Needs root for the frames.

    Args:
        targets: addresses outside every allow-list.
        timeout_s: how long one TCP connection may take.
        interfaces: where to send from; by default every interface that the loaded rules guard.

    Raises:
        InputError: a target is no address.
        ApplianceError: the rules are not loaded; then nothing is sent.
    """
    kernel = kernel or nft.Nft()
    addresses = [_address(target) for target in targets]
    names = list(interfaces) or nft.devices(kernel.listing("netdev"))
    if not kernel.listing("inet") or not names:
        raise ApplianceError(
            "the firewall is not loaded, so nothing was sent",
            remedy="Run the firewall role, or: systemctl start appliance-firewall",
        )
    attempts = []
    for name in names:
        for address in addresses:
            for kind, attempt in (("tcp", _tcp), ("udp", _udp), ("frame", _frame)):
                before = _denied(kernel)
                outcome, detail = attempt(address, name, timeout_s)
                after = _denied(kernel)
                rose = {hook: after[hook] - before[hook] for hook in after}
                door = FRAMES if kind == "frame" else SOCKETS
                # A socket that slipped past the first door may still have been stopped, and counted, at the second.
                hook = next((h for h in (door, FRAMES) if rose[h] > 0), "")
                attempts.append(Attempt(kind, str(address), name, outcome, hook, rose.get(hook, 0), detail))
    return attempts


def main(argv: Sequence[str] | None = None) -> int:
    """Print the attempts as JSON; 0 only when they prove that the node is shut."""
    parser = argparse.ArgumentParser(prog="python -m engine.egress", description="Prove that this node is shut.")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="addresses outside every allow-list")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="for one TCP connection")
    parser.add_argument("--interface", action="append", default=[], help="default: all that the rules guard")
    asked = parser.parse_args(argv)
    try:
        proof = Proof(probe(asked.targets, asked.timeout, interfaces=asked.interface))
    except ApplianceError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    found = {"shut": proof.shut, "attempts": [{**asdict(a), "denied": a.denied} for a in proof.attempts]}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return int(Exit.OK if proof.shut else Exit.FAILED)


def _denied(kernel: nft.Nft) -> dict[str, int]:
    counters = kernel.counters()
    return {
        SOCKETS: sum(c.packets for name, c in counters.items() if name == "inet.egress_denied"),
        FRAMES: sum(c.packets for name, c in counters.items() if name.startswith("netdev.frame_denied")),
    }


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InputError(
            f"{text} is no IP address", remedy="Give addresses, not names: names need a resolver."
        ) from None


def _tcp(address: Address, interface: str, timeout_s: float) -> tuple[str, str]:
    with _socket(address, socket.SOCK_STREAM, interface) as out:
        out.settimeout(timeout_s)
        return _outcome(lambda: out.connect((str(address), TCP_PORT)), done="connected")


def _udp(address: Address, interface: str, timeout_s: float) -> tuple[str, str]:
    with _socket(address, socket.SOCK_DGRAM, interface) as out:
        out.settimeout(timeout_s)
        return _outcome(lambda: out.sendto(_WORDS, (str(address), UDP_PORT)), done="sent")


def _frame(address: Address, interface: str, timeout_s: float) -> tuple[str, str]:
    """Two frames past the IP stack: a UDP packet to ``address``, and one of no IP protocol at all."""
    try:
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    except PermissionError as error:
        raise ApplianceError("a raw frame needs root", remedy="Run this as root.") from error
    with out:
        out.settimeout(timeout_s)
        out.bind((interface, 0))
        frames = (_ip_frame(address), _NOBODY + struct.pack("!H", _LOCAL_EXPERIMENT) + _WORDS.ljust(46, b"\0"))
        outcomes = [_outcome(lambda frame=frame: out.send(frame), done="sent") for frame in frames]  # type: ignore[misc]
    return next((found for found in outcomes if found[0] == "sent"), outcomes[0])


def _socket(address: Address, kind: int, interface: str) -> socket.socket:
    """A socket tied to the interface: without a default route it still meets the door instead of a missing route."""
    out = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
    out.setsockopt(socket.SOL_SOCKET, _BIND_TO_DEVICE, interface.encode() + b"\0")
    return out


def _outcome(attempt: Callable[[], object], *, done: str) -> tuple[str, str]:
    try:
        attempt()
    except TimeoutError:
        return "blocked", ""
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN):
            return "unroutable", name
        return "refused", name
    return done, ""


def _ip_frame(address: Address) -> bytes:
    udp = struct.pack("!HHHH", UDP_PORT, UDP_PORT, 8 + len(_WORDS), 0) + _WORDS
    if isinstance(address, ipaddress.IPv6Address):
        head = struct.pack("!IHBB", 6 << 28, len(udp), socket.IPPROTO_UDP, 64) + bytes(16) + address.packed
        return _NOBODY + struct.pack("!H", 0x86DD) + head + udp
    bare = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + bytes(4) + address.packed
    total = sum(struct.unpack("!10H", bare))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~((total >> 16) + total) & 0xFFFF
    return _NOBODY + struct.pack("!H", 0x0800) + bare[:10] + struct.pack("!H", checksum) + bare[12:] + udp


if __name__ == "__main__":
    sys.exit(main())
