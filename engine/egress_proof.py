"""One proof that the node is shut: are the rules those on record, is what tries to get out refused by them, and is it written down.

A proof is good when the rules were as recorded before it, every interface that is up is guarded, every attempt was denied,
and both doors counted what was sent. A node that was found open and shut again has a bad proof, for it was open.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine import nft, strictjson
from engine.egress import TARGETS, Attempt, Proof, probe
from engine.egress_raw import Raw
from engine.errors import ApplianceError, InputError
from engine.firewall import Firewall

CONFIG = Path("/etc/appliance/egress.json")
MENDED = ("none", "foreign")


@dataclass(frozen=True)
class Settings:
    """What the firewall role writes to ``CONFIG``."""

    node: str = ""
    targets: tuple[str, ...] = TARGETS
    unguarded: tuple[str, ...] = ()  # regular expressions on whole names
    restore: bool = True
    interval_s: int = 300
    timeout_s: float = 2.0
    metrics: str = ""
    raw_socket: str = ""
    segment_bytes: int = 1 << 20
    segments: int = 64
    seal_every: int = 12


def settings(path: Path = CONFIG) -> Settings:
    """Read them; without the file the defaults hold.

    Raises:
        InputError: the file is not what the role writes.
    """
    try:
        found = strictjson.loads(path.read_bytes(), max_parts=10_000)
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read it: {error}", where=str(path), remedy="Run the firewall role again.") from error
    unknown = set(found) - set(Settings.__dataclass_fields__) if isinstance(found, dict) else {"this"}
    if unknown:
        raise InputError(
            f"unknown: {', '.join(sorted(unknown))}", where=str(path), remedy="Run the firewall role again."
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Settings(**values)


@dataclass
class Found:
    """What a proof found, as it is written down."""

    faults: list[str] = field(default_factory=list)
    loaded: str = ""
    rules: str = ""
    kernel: str = ""
    restored: bool = False
    interfaces: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.faults

    def body(self) -> dict[str, Any]:
        """For the evidence: attempts summed up by kind, and in full those that prove nothing good."""
        kinds = list(dict.fromkeys(a.kind for a in self.attempts))
        return {
            "good": self.good,
            "faults": self.faults,
            "rules": {"loaded": self.loaded, "active": self.rules, "kernel": self.kernel, "restored": self.restored},
            "interfaces": self.interfaces,
            "attempts": {kind: _sums([a for a in self.attempts if a.kind == kind]) for kind in kinds},
            "wrong": [asdict(a) for a in self.attempts if not _right(a)][:20],
            "counters": self.counters,
            "seconds": round(self.seconds, 2),
        }


def prove(
    firewall: Firewall, wanted: Settings, *, raw: Raw | None = None, guarded: Callable[[str], bool] = lambda name: True
) -> Found:
    """Look at the rules, put them back where policy says so, and try to get out.

    Args:
        guarded: whether an interface that is up has to be guarded.
    """
    begin, found = time.monotonic(), Found()
    before = firewall.status()
    found.loaded, found.rules = before["loaded"], before["active"]
    found.faults += _recorded(firewall, found.loaded)
    if found.loaded in MENDED and wanted.restore and found.rules:
        try:
            found.restored = firewall.mend()
        except ApplianceError as error:
            found.faults.append(f"the rules could not be put back: {error}")
    found.kernel = firewall.kernel.digest()
    found.interfaces = nft.devices(firewall.kernel.listing("netdev"))
    open_ones = [n for n in nft.present() if n not in found.interfaces and guarded(n)]
    found.faults += [f"{name} is up and frames leave it unguarded" for name in open_ones]
    try:
        found.attempts = probe(wanted.targets, wanted.timeout_s, kernel=firewall.kernel, raw=raw)
    except ApplianceError as error:
        found.faults.append(str(error))
    else:
        found.faults += _judged(found.attempts, [n for n in found.interfaces if n in nft.present()])
    found.counters = {name: counter.packets for name, counter in firewall.kernel.counters().items()}
    found.seconds = time.monotonic() - begin
    return found


def _recorded(firewall: Firewall, loaded: str) -> list[str]:
    """What is wrong with the rules in words; nothing when they are the confirmed ones, or wait for their confirmation."""
    match loaded:
        case "active" | "candidate":
            return []
        case "closed":
            return ["only the closed rules are loaded, because the confirmed ones cannot be"]
        case "none":
            return ["the tables inet appliance and netdev appliance are not loaded"]
    missing = [family for family in nft.FAMILIES if not firewall.kernel.listing(family)]
    if missing:
        return [f"the table {family} appliance is not loaded" for family in missing]
    return ["the rules in the kernel are not the ones that were loaded"]


def _judged(attempts: list[Attempt], interfaces: list[str]) -> list[str]:
    proof = Proof(attempts)
    faults = [f"{a.kind} to {a.target} by {a.interface} got out" for a in attempts if not a.denied]
    faults += [
        f"{a.kind} to {a.target} by {a.interface} was {a.outcome}, but no door counted it"
        for a in attempts
        if a.denied and not _right(a)
    ]
    faults += [f"no frame was counted at {name}" for name in proof.unproved(interfaces)]
    if not faults and not proof.shut:
        faults.append("the attempts do not prove both doors shut")
    return faults[:20]


def _right(attempt: Attempt) -> bool:
    """Denied by a door that counted it, or not sent at all for want of a route."""
    return attempt.denied and (attempt.evidence or attempt.outcome == "unroutable")


def _sums(attempts: list[Attempt]) -> dict[str, int]:
    return {
        "tried": len(attempts),
        "denied": sum(a.denied for a in attempts),
        "sent": sum(a.sent for a in attempts if a.outcome != "unroutable"),
        "counted": sum(a.counted for a in attempts),
        "unroutable": sum(a.outcome == "unroutable" for a in attempts),
    }


def metrics(found: Found, *, records: int, written: bool, now: float) -> str:
    """The text for Prometheus' textfile collector. ``now`` is in seconds since 1970."""
    out: list[str] = []

    def gauge(name: str, about: str, values: dict[str, float]) -> None:
        out.extend([f"# HELP appliance_egress_{name} {about}", f"# TYPE appliance_egress_{name} gauge"])
        out.extend(f"appliance_egress_{name}{labels} {value:.15g}" for labels, value in values.items())

    sums = found.body()["attempts"]
    gauge("denied", "Whether the last proof showed that nothing gets out.", {"": found.good})
    gauge(
        "rules_as_recorded",
        "Whether the rules were the confirmed ones before the proof.",
        {"": found.loaded in ("active", "candidate")},
    )
    gauge("rules_restored", "Whether the last proof had to put the rules back.", {"": found.restored})
    gauge("evidence_written", "Whether the last proof was written down.", {"": written})
    gauge("evidence_records", "Number of the newest record of evidence.", {"": records})
    gauge("last_proof_timestamp_seconds", "When the last proof ended.", {"": now})
    for what in ("tried", "denied", "counted"):
        gauge(
            f"attempts_{what}",
            f"Attempts of the last proof that were {what}; counted are packets.",
            {f'{{kind="{k}"}}': v[what] for k, v in sums.items()},
        )
    gauge(
        "door_packets",
        "Packets at the counters of the doors since the rules were loaded.",
        {f'{{door="{k}"}}': v for k, v in sorted(found.counters.items())},
    )
    return "\n".join(out) + "\n"
