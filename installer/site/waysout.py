"""Whether an installed node lets anything out, from what its own last proof measured and signed; installer.site.egress fetches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from installer.site import egress
from installer.site.egress import Evidence
from installer.site.inventory import Host, Inventory

ANY_AGE = timedelta(
    days=36500
)  # how old the newest record is depends on two clocks; it is told, and is no failure of an install


@dataclass(frozen=True)
class WaysOut:
    """One node's last proof: attempts over every guarded interface, with TCP, UDP, ICMP and raw frames.

    Attributes:
        measured: whether evidence was fetched at all; without it nothing is known, and ``problems`` says why.
        good: sound evidence shows that every attempt was refused.
        tried: attempts; ``refused`` of them at the firewall, and ``unroutable`` for want of a route, so that no rule was met.
        at: when, ISO 8601 UTC by the node's clock; empty where nothing was measured.
        problems: what is wrong, in words.
    """

    node: str
    measured: bool
    good: bool
    tried: int = 0
    refused: int = 0
    unroutable: int = 0
    at: str = ""
    problems: list[str] = field(default_factory=list)


def measured(inventory: Inventory, ca_dir: Path, hosts: Sequence[Host]) -> list[WaysOut]:
    """Fetch and judge the evidence of nodes, all at once.

    Args:
        ca_dir: directory of the site's authority; the role pins the nodes' keys beside it.
    """
    found = egress.collect(inventory, directory(ca_dir), hosts, late_after=ANY_AGE)
    return [understood(evidence) for evidence in found]


def directory(ca_dir: Path) -> Path:
    """Where installs pin the keys that nodes sign their evidence with: the same as in playbooks/group_vars/all.yml."""
    return ca_dir.resolve().parent / "evidence"


def understood(found: Evidence) -> WaysOut:
    """What evidence says of the ways out. Pure."""
    problems = [*found.problems, *found.last_faults]
    got_out = found.tried - found.denied
    if found.fetched and not problems and (got_out or not found.tried):
        problems = [f"{got_out} of {found.tried} attempts got out" if found.tried else "its last proof tried nothing"]
    return WaysOut(
        found.node, found.fetched, found.fetched and not problems, found.tried, found.denied - found.unroutable, found.unroutable,
        found.last_proof_time, problems,
    )  # fmt: skip


def line(ways: WaysOut, now: datetime) -> str:
    """The same for people."""
    if not ways.measured:
        return f"{ways.node}: whether anything gets out is not known: {ways.problems[0]}"
    if not ways.good:
        return f"{ways.node}: NOT PROVED SHUT: {'; '.join(ways.problems[:3])}"
    missing = f" ({ways.unroutable} of them for want of a route)" if ways.unroutable else ""
    age = now - datetime.fromisoformat(ways.at).astimezone(UTC)
    when = f", last at {ways.at}" if age > egress.LATE_AFTER else ""
    return f"{ways.node}: {ways.tried} ways out tried, all refused{missing}{when}"
