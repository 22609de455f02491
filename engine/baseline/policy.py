"""Controls and waivers of one node, as the role wrote them down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from engine import strictjson
from engine.errors import InputError

FILE = Path("/etc/appliance/baseline.json")
MAX_BYTES = 4 << 20
SHORTEST_REASON = 20  # characters; fewer explain nothing to the next reader
LONGEST_REASON = 2000
LONGEST_WAIVER_DAYS = 400  # a year and some slack: whoever wants longer looks again
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_WAIVER = frozenset({"control", "reason", "expires", "reviewer"})


@dataclass(frozen=True)
class Control:
    """One control. ``want`` is what its ``check`` understands; ``enforced`` is false for what is only reported."""

    id: str
    title: str
    check: str
    want: Mapping[str, Any]
    level: int = 1
    enforced: bool = True
    reboot: bool = False


@dataclass(frozen=True)
class Waiver:
    """A control that is left out on purpose, until a day."""

    control: str
    reason: str
    expires: date
    reviewer: str


@dataclass(frozen=True)
class Policy:
    """What a node is held to."""

    controls: tuple[Control, ...]
    waivers: Mapping[str, Waiver] = field(default_factory=dict)


def waiver_faults(waivers: Any, known: set[str], today: date) -> list[str]:
    """Everything that is wrong with the waivers of an inventory, each as one sentence with its remedy.

    Args:
        waivers: what the inventory holds; anything, since a person wrote it.
        known: ids of all controls.
    """
    if not isinstance(waivers, list):
        return ["The waivers are no list: write each as `- control: …` with reason, expires and reviewer."]
    faults: list[str] = []
    seen: set[str] = set()
    for number, entry in enumerate(waivers, 1):
        if not isinstance(entry, Mapping):
            faults.append(f"Waiver {number} is no mapping: give control, reason, expires and reviewer.")
            continue
        name = str(entry.get("control", ""))
        faults += _faults(f"The waiver of {name or f'(number {number})'}", name, entry, known, today)
        if name in seen:
            faults.append(f"{name} is waived twice: keep one entry.")
        seen.add(name)
    return faults


def _faults(where: str, name: str, entry: Mapping[str, Any], known: set[str], today: date) -> list[str]:
    faults = []
    if extra := sorted(set(map(str, entry)) - _WAIVER):
        faults.append(f"{where} has {', '.join(extra)}: use control, reason, expires and reviewer only.")
    if name not in known:
        faults.append(f"{where} names no control: docs/baseline.md lists the ids.")
    reason = str(entry.get("reason") or "").strip()
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON:
        faults.append(
            f"{where} has no reason of at least {SHORTEST_REASON} characters: say why, and what is done instead."
        )
    if not str(entry.get("reviewer") or "").strip():
        faults.append(f"{where} names no reviewer: write who agreed.")
    try:
        expires = _day(entry.get("expires"))
    except ValueError:
        return [*faults, f"{where} has no expiry date: write expires: YYYY-MM-DD."]
    if expires < today:
        faults.append(
            f"{where} expired on {expires}: review it and give a new date, or remove it and let the control apply."
        )
    elif (expires - today).days > LONGEST_WAIVER_DAYS:
        faults.append(f"{where} ends on {expires}: {LONGEST_WAIVER_DAYS} days are the most, then somebody looks again.")
    return faults


def _day(value: Any) -> date:
    """YAML makes dates of plain dates and leaves quoted ones as text.

    Raises:
        ValueError: it is neither.
    """
    if not _DAY.fullmatch(str(value)):
        raise ValueError(value)
    return date.fromisoformat(str(value))


def load(path: Path = FILE) -> Policy:
    """Read the policy of this node.

    Raises:
        InputError: there is none, or it is not what the role writes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the node's baseline: {error.strerror}",
            where=str(path),
            remedy="Switch on appliance_site.baseline and install, or name another file with --policy.",
        ) from error
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES} bytes")
        return parse(strictjson.loads(raw))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"this is no baseline: {error}", where=str(path), remedy="Let the role os_baseline write it again."
        ) from error


def parse(document: Any) -> Policy:
    """The policy of a parsed document.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise ValueError("schema is not 1")
    controls = tuple(Control(**{**c, "want": dict(c["want"])}) for c in document["controls"])
    if len({c.id for c in controls}) != len(controls):
        raise ValueError("a control stands twice")
    waivers = {w["control"]: Waiver(**{**w, "expires": _day(w["expires"])}) for w in document["waivers"]}
    return Policy(controls, waivers)
