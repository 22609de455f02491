"""What the watch of the nodes wrote down, judged: inside the site, allowed for a reason, or an attempt to reach out. Pure."""

from __future__ import annotations

import bisect
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine import egress, egress_raw
from engine.report import printable
from installer.lab.sighting import DNS, Sighting
from installer.site.settings import Flow

DECLARED = "the site's own egress"


@dataclass(frozen=True)
class Attempt:
    """Equal sightings on one node. ``first`` in seconds since 1970; ``during`` is what the install did there then."""

    node: str
    unit: str
    process: str
    command: str
    kind: str
    address: str
    port: int
    name: str
    times: int
    first: float
    during: str = ""

    @property
    def target(self) -> str:
        """Where it wanted to go, for people."""
        if self.kind == "frame":
            return "any station, with raw frames"
        if self.name:
            return f"the address of {self.name}"
        if self.port == DNS:
            return f"the name server {self.address}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port} ({self.kind})"


@dataclass(frozen=True)
class Excuse:
    """Attempts that do not count, and why."""

    reason: str
    holds: Callable[[Sighting], bool]


HARMLESS = (
    Excuse(
        "the install's own proof that the door is shut: addresses for documentation, where nobody is (engine.egress)",
        lambda s: (
            s.address in egress.TARGETS
            and not s.name
            # Without a port: ICMP, which others may send for reasons of their own.
            and (s.port in (egress.TCP_PORT, egress_raw.UDP_PORT) or (s.port == 0 and "-m engine.egress" in s.command))
        ),
    ),
    Excuse(
        "the install's own proof that raw frames are stopped (engine.egress)",
        lambda s: s.kind == "frame" and "-m engine.egress" in s.command,
    ),
    Excuse(
        "systemd-networkd listens for switches (LLDP) and sends nothing",
        lambda s: s.kind == "frame" and s.unit == "systemd-networkd.service",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """Attempts that count, how many sightings each excuse took, and what the watch could not see."""

    attempts: tuple[Attempt, ...]
    excused: Mapping[str, int]
    blind: tuple[str, ...]

    @property
    def outward(self) -> bool:
        """Whether a packet beyond the lab is explained by something that was seen."""
        return bool(self.attempts) or any(reason.startswith(DECLARED) for reason in self.excused)


def inside(addresses: Iterable[str]) -> Excuse:
    """The nodes and the control host."""
    known = frozenset(addresses)
    return Excuse("nodes and control host, which are inside", lambda s: s.address in known)


def declared(flow: Flow) -> Excuse:
    """What the site itself lets out."""
    networks = [ipaddress.ip_network(d, strict=False) for d in flow.destinations]

    def holds(sighting: Sighting) -> bool:
        if sighting.kind != flow.protocol or sighting.port not in flow.ports:
            return False
        return any(ipaddress.ip_address(sighting.address) in network for network in networks)

    return Excuse(f"{DECLARED} {flow.name}", holds)


def read(text: str) -> tuple[list[Sighting], list[str]]:
    """A node's file: what was seen, and where the watch was blind. A line that was cut off counts as blind."""
    seen, blind = [], []
    for line in text.splitlines():
        try:
            data = json.loads(line)
            if "blind" in data:
                blind.append(str(data["blind"]))
            else:
                seen.append(Sighting(**data))
        except (ValueError, TypeError):
            blind.append(f"an unreadable line: {line[:80]}")
    return seen, blind


def judge(
    seen: Mapping[str, Sequence[Sighting]], excuses: Sequence[Excuse], steps: Sequence[tuple[float, str, str]]
) -> tuple[tuple[Attempt, ...], dict[str, int]]:
    """Attempts that no excuse takes, oldest first, and how many each excuse took.

    Args:
        seen: by node.
        steps: time, node and task of the install, in order of time.
    """
    groups: dict[tuple[str, ...], list[Sighting]] = {}
    excused: dict[str, int] = {}
    for node, sightings in seen.items():
        asked = {(s.pid, s.address) for s in sightings if s.kind == "lookup"}
        for s in sightings:
            if excuse := next((e for e in excuses if e.holds(s)), None):
                excused[excuse.reason] = excused.get(excuse.reason, 0) + 1
            elif s.kind == "lookup" or s.port != DNS or (s.pid, s.address) not in asked:  # else its question says more
                key = (node, s.unit, s.process, s.command, s.kind, s.address, str(s.port), s.name.lower())
                groups.setdefault(key, []).append(s)
    found = [_attempt(key[0], group, steps) for key, group in groups.items()]
    return tuple(sorted(found, key=lambda a: a.first)), excused


def _attempt(node: str, group: Sequence[Sighting], steps: Sequence[tuple[float, str, str]]) -> Attempt:
    one = min(group, key=lambda s: s.time)
    mine = [(time, task) for time, name, task in steps if name == node]
    at = bisect.bisect_right(mine, (one.time, "\U0010ffff")) - 1
    return Attempt(
        node=node,
        unit=one.unit,
        process=printable(one.process, keep=""),
        command=printable(one.command, keep=""),
        kind=one.kind,
        address=one.address,
        port=one.port,
        name=printable(one.name, keep=""),
        times=len(group),
        first=one.time,
        during=mine[at][1] if at >= 0 else "",
    )
