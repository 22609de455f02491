"""The licences of a bundle's components as its index has them, counted by how clear they are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from installer.evidence import spdx, update
from installer.lockfile import Lock

OWN_NAMES = "LicenseRef-Debian-"  # of copyright files that use a name which SPDX does not have (evidence/dep5.py)
# How clear a licence is, the clearest first: by what the index says it follows from.
STATES = {
    "declared": "declared by the supplier, as an SPDX expression or in words that mean one licence",
    "copyright file": "named in Debian's machine-readable copyright file",
    "declared and text": "declared in words that mean several licences, and the text that comes with it is one of them",
    "text": "not declared, and the text that comes with it is word by word a known one",
    "words": "declared in words that mean no one licence: read them",
    "unclassified": "text only, not classified: read it",
    "unknown": "unknown: neither declared nor a text",
}


@dataclass(frozen=True)
class Component:
    """A component and its licence.

    Attributes:
        group: the set of wheels it belongs to; a wheel may be in several.
        said: the SPDX expression, else the supplier's words, else empty.
        state: a key of STATES.
    """

    kind: str
    group: str
    name: str
    version: str
    said: str
    state: str


@dataclass(frozen=True)
class Named:
    """One licence: of how many components it is the only one, and of how many one among several or one to choose."""

    licence: str
    alone: int
    among: int


def by_path(lock: Lock, index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What is known of each artifact's licence, by its path: ``said`` and ``state`` as in ``Component``.

    Args:
        index: ``licences/index.json``; of a builder before this version it has no SPDX expressions, and declared words are
            translated here.
    """
    entries = {
        e["path"]: e for e in _list(index, "artifacts") if isinstance(e, dict) and isinstance(e.get("path"), str)
    }
    return {a.path: _state(entries.get(a.path, {}), a.licence) for a in lock.artifacts}


def of(lock: Lock, told: Mapping[str, tuple[str, str]]) -> list[Component]:
    """Every component of the lock with its licence; of several artifacts in one the least clear counts.

    Args:
        told: what ``by_path`` gave for the lock.
    """
    found = []
    for (kind, group, name), artifacts in update.components(lock).items():
        said, state = max((told[a.path] for a in artifacts), key=lambda t: list(STATES).index(t[1]))
        found.append(Component(kind, group, name, update.version(artifacts), said, state))
    return found


def counted(components: list[Component]) -> list[tuple[str, int]]:
    """How many components are in each state, with the state's meaning; adds up to all of them."""
    counts = Counter(c.state for c in components)
    return [(meaning, counts[state]) for state, meaning in STATES.items() if counts[state]]


def named(components: list[Component]) -> tuple[list[Named], list[Named]]:
    """The licences that occur, the most frequent first: those that SPDX has (or a supplier's own), and names that only Debian's files have."""
    alone: Counter[str] = Counter()
    among: Counter[str] = Counter()
    for component in components:
        if component.state in ("words", "unclassified", "unknown"):
            continue
        names = spdx.single(component.said)
        (alone if len(names) == 1 else among).update(names)
    rows = [Named(n, alone[n], among[n]) for n in {*alone, *among}]
    rows.sort(key=lambda n: (-n.alone - n.among, n.licence))
    return [r for r in rows if not r.licence.startswith(OWN_NAMES)], [
        r for r in rows if r.licence.startswith(OWN_NAMES)
    ]


def paths(index: Mapping[str, Any], key: str) -> list[str]:
    """The paths that the index lists under ``key``."""
    return [str(p) for p in _list(index, key)]


def _state(entry: Mapping[str, Any], declared: str) -> tuple[str, str]:
    declared = str(entry.get("licence") or declared)
    expression, basis = str(entry.get("spdx") or ""), str(entry.get("basis") or "")
    if expression and basis in STATES:
        return expression, basis
    if translated := spdx.normalise(declared):
        return translated, "declared"
    if declared:
        return declared, "words"
    return "", "unclassified" if entry.get("texts") else "unknown"


def _list(index: Mapping[str, Any], key: str) -> list[Any]:
    found = index.get(key)
    return found if isinstance(found, list) else []
