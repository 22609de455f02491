"""The set of packages that moves as one, or what is wrong with it. Pure: apt is a function that is passed in.

apt resolves and this module judges: it asks apt what the named packages would bring, gives every package of driver and
kernel among them its exact version, and refuses what is incomplete, mixed, or would take something else away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.driver.names import driver_version, is_pinned

Index = Mapping[str, Mapping[str, str]]  # name to version to file name below the repository
Simulate = Callable[[Sequence[str]], "Simulation"]

_INST = re.compile(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) ", re.MULTILINE)
_REMV = re.compile(r"^Remv (\S+)", re.MULTILINE)
_FIELD = re.compile(r"^(Package|Version|Filename): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Want:
    """What the site asks for. ``version`` is NVIDIA's, ``kernel`` is what ``uname -r`` will say."""

    version: str
    kernel: str
    packages: tuple[str, ...]  # of the driver
    support: tuple[str, ...] = ()  # kernel, headers, and what builds modules


@dataclass(frozen=True)
class Simulation:
    """What apt would do, or why it cannot (``error``)."""

    installs: dict[str, str] = field(default_factory=dict)
    removes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Installed:
    """A package on the node."""

    version: str
    held: bool
    whole: bool  # configured, not left half way


@dataclass(frozen=True)
class Plan:
    """``faults`` are sentences; with any, nothing may change."""

    pins: dict[str, str] = field(default_factory=dict)
    support: dict[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def read_index(text: str) -> dict[str, dict[str, str]]:
    """The stanzas of a Packages file."""
    found: dict[str, dict[str, str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if {"Package", "Version"} <= fields.keys():
            found.setdefault(fields["Package"], {})[fields["Version"]] = fields.get("Filename", "")
    return found


def read_installed(text: str) -> dict[str, Installed]:
    """What ``dpkg-query -W -f '${db:Status-Abbrev}\\t${Package}\\t${Version}\\n'`` prints; packages that are gone are left out."""
    found = {}
    for line in text.splitlines():
        state, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if version and state[1:2] not in ("n", "c"):
            found[name] = Installed(version, state[:1] == "h", state[1:3].strip() == "i")
    return found


def read_simulation(text: str) -> Simulation:
    """The lines ``Inst`` and ``Remv`` of ``apt-get --simulate``; names lose their architecture."""
    return Simulation(
        {name.partition(":")[0]: version for name, version in _INST.findall(text)},
        tuple(name.partition(":")[0] for name in _REMV.findall(text)),
    )


def plan(want: Want, index: Index, installed: Mapping[str, Installed], simulate: Simulate) -> Plan:
    """What would move, or why it must not."""
    asked = (*want.support, *want.packages)
    if faults := [*_missing(asked, index), *_twice(index)]:
        return Plan(faults=tuple(faults))
    version = {name: next(iter(versions)) for name, versions in index.items()}
    first = simulate([f"{n}={version[n]}" for n in asked])
    if first.error:
        return Plan(faults=(_unresolved(first),))
    here = {n for n in installed if is_pinned(n)}
    members = {*asked, *(n for n in {*first.installs, *here} if n in index and is_pinned(n))} - set(first.removes)
    whole = simulate([f"{n}={version[n]}" for n in sorted(members)])
    if whole.error:
        return Plan(faults=(_unresolved(whole),))
    pins = {n: version[n] for n in sorted(members) if is_pinned(n)}
    faults = [
        *_mixed(want, pins),
        *_left_behind(want, installed, pins, whole),
        *(
            f"apt would remove {n} to make room for the set: look why they conflict, and remove it by hand if that is meant."
            for n in whole.removes
            if not is_pinned(n)
        ),
    ]
    return Plan(
        pins=pins,
        support={n: version[n] for n in sorted(members) if n in want.support or n.startswith("linux-")},
        moves=tuple(n for n in sorted(members) if _moves(installed.get(n), version[n])),
        removes=whole.removes,
        faults=tuple(faults),
    )


def _moves(here: Installed | None, version: str) -> bool:
    return here is None or here.version != version or not here.whole


def _missing(asked: Sequence[str], index: Index) -> list[str]:
    gone = [n for n in asked if n not in index]
    return (
        [
            f"the bundle's repository holds no {', '.join(gone)}, so its set of driver and kernel is not whole: "
            "add them to the definition under debs, and lock and build again."
        ]
        if gone
        else []
    )


def _twice(index: Index) -> list[str]:
    return [
        f"the bundle's repository holds {n} in the versions {', '.join(sorted(v))}: pin one of them in the definition with =VERSION."
        for n, v in sorted(index.items())
        if len(v) > 1 and is_pinned(n)
    ]


def _unresolved(simulation: Simulation) -> str:
    return (
        f"apt cannot install the set from the bundle's repository alone: {simulation.error}: "
        "lock and build the bundle again, so that it carries everything the set needs."
    )


def _mixed(want: Want, pins: Mapping[str, str]) -> list[str]:
    other = {n: v for n, full in pins.items() if (v := driver_version(n, full)) and v != want.version}
    return (
        [
            f"the site asks for driver {want.version}, the bundle's repository holds {', '.join(f'{n} {v}' for n, v in other.items())}: "
            "they work in exactly one version; correct gpu_driver.version, or pin every package in the definition."
        ]
        if other
        else []
    )


def _left_behind(
    want: Want, installed: Mapping[str, Installed], pins: Mapping[str, str], whole: Simulation
) -> list[str]:
    """Packages on the node that must have the driver's version, and that the bundle cannot move with it."""
    left = {
        n: v
        for n, p in installed.items()
        if n not in pins and n not in whole.removes and is_pinned(n) and (v := driver_version(n, p.version)) not in ("", want.version)
    }  # fmt: skip
    return (
        [
            f"the node has {', '.join(f'{n} {v}' for n, v in sorted(left.items()))}, which the bundle does not hold and driver {want.version} "
            "would leave behind: remove them from the node, or add them to the definition."
        ]
        if left
        else []
    )
