"""Proof that a node cannot reach out: try it, see it fail, and see the counter of the door rise.

Sockets meet the chain ``output`` of ``inet appliance``; raw frames, which never pass that, meet the egress chains of
``netdev appliance``. An attempt counts as denied only when it failed. It counts as evidence for a door only when that
door's counter rose at the same time; the proof holds when every attempt was denied and both doors gave evidence.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from engine import nft
from engine.egress_raw import FRAMES_SENT, RAW_KINDS, UDP_PORT, WORDS, Here, Raw, bound, outcome_of
from engine.errors import ApplianceError, Exit, InputError

TARGETS = ("192.0.2.1", "198.51.100.1", "2001:db8::1")  # documentation networks: nobody is there, should a door be open
TCP_PORT = 443
TIMEOUT_S = 2.0
SOCKETS = "inet output"
FRAMES = "netdev egress"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
    sent: int = 1

    @property
    def evidence(self) -> bool:
        """Whether a door counted at least as many packets as were sent."""
        return bool(self.hook) and self.counted >= self.sent

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
        witnessed = all(attempt.evidence for attempt in self.attempts if attempt.outcome != "unroutable")
        doors = {attempt.hook for attempt in self.attempts if attempt.hook}
        return witnessed and doors == {SOCKETS, FRAMES} and all(attempt.denied for attempt in self.attempts)

    def unproved(self, interfaces: Sequence[str]) -> list[str]:
        """Those of ``interfaces`` where no frame was counted at the second door."""
        seen = {a.interface for a in self.attempts if a.evidence and a.hook == FRAMES}
        return [name for name in interfaces if name not in seen]


def probe(
    targets: Sequence[str] = TARGETS,
    timeout_s: float = TIMEOUT_S,
    *,
    interfaces: Sequence[str] = (),
    kernel: nft.Nft | None = None,
    raw: Raw | None = None,
) -> list[Attempt]:
    """Try TCP, UDP, ICMP and raw frames to ``targets`` and return what became of each.

    Args:
        targets: addresses outside every allow-list.
        timeout_s: how long one TCP connection may take.
        interfaces: where to send from; by default every interface that the loaded rules guard.
        raw: who sends what needs CAP_NET_RAW; by default this process, which needs root for it.

    Raises:
        InputError: a target is no address.
        ApplianceError: the rules are not loaded; then nothing is sent.
    """
    kernel, raw = kernel or nft.Nft(), raw or Here()
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
            for kind in ("tcp", "udp", *RAW_KINDS):
                before = _denied(kernel)
                match kind:
                    case "tcp":
                        outcome, detail = _tcp(address, name, timeout_s)
                    case "udp":
                        outcome, detail = _udp(address, name, timeout_s)
                    case _:
                        outcome, detail = raw.send(kind, str(address), name)
                after = _denied(kernel)
                rose = {hook: after[hook] - before[hook] for hook in after}
                door = FRAMES if kind == "frame" else SOCKETS
                # A socket that slipped past the first door may still have been stopped, and counted, at the second.
                hook = next((h for h in (door, FRAMES) if rose[h] > 0), "")
                sent = FRAMES_SENT if kind == "frame" else 1
                attempts.append(Attempt(kind, str(address), name, outcome, hook, rose.get(hook, 0), detail, sent))
    return attempts


VERBS = ("prove", "verify", "export", "key")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the attempts as JSON; 0 only when they prove that the node is shut. With a verb: see engine.egress_cli."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in VERBS:
        from engine.egress_cli import main as verb  # noqa: PLC0415  needs libraries that a probe does not

        return verb(words)
    parser = argparse.ArgumentParser(prog="python -m engine.egress", description="Prove that this node is shut.")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="addresses outside every allow-list")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="for one TCP connection")
    parser.add_argument("--interface", action="append", default=[], help="default: all that the rules guard")
    asked = parser.parse_args(words)
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
    with bound(address, socket.SOCK_STREAM, interface) as out:
        out.settimeout(timeout_s)
        return outcome_of(lambda: out.connect((str(address), TCP_PORT)), done="connected")


def _udp(address: Address, interface: str, timeout_s: float) -> tuple[str, str]:
    with bound(address, socket.SOCK_DGRAM, interface) as out:
        out.settimeout(timeout_s)
        return outcome_of(lambda: out.sendto(WORDS, (str(address), UDP_PORT)), done="sent")


if __name__ == "__main__":
    sys.exit(main())
