"""What sudo has in force, as its own parser reads it, includes and all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engine.baseline.outcome import Outcome, of_faults
from engine.process import run


def sudoers(want: Mapping[str, Any]) -> Outcome:
    """``want.defaults``: option to value for everybody; ``want.without_password``: who may act without one."""
    run(["visudo", "-c", "-q"], timeout_s=30, package="sudo")
    said = json.loads(run(["cvtsudoers", "-f", "json", "/etc/sudoers"], timeout_s=30, package="sudo").stdout)
    found = defaults(said)
    faults = [
        f"{option} is {found.get(option, 'not set')}, wanted {value}"
        for option, value in want.get("defaults", {}).items()
        if str(found.get(option)).lower() != str(value).lower()
    ]
    if "without_password" in want:
        free = sorted(set(without_password(said)) - set(want["without_password"]))
        faults += [f"{who} needs no password" for who in free]
    return of_faults(
        faults, "; ".join(f"{o}={found[o]}" for o in want.get("defaults", {})) or "nobody else without a password"
    )


def defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Options that hold for everybody; the last one counts."""
    found: dict[str, Any] = {}
    for entry in document.get("Defaults", []):
        if "Binding" not in entry:
            for option in entry.get("Options", []):
                found |= option
    return found


def without_password(document: Mapping[str, Any]) -> Iterator[str]:
    """Users (``name``) and groups (``%name``) of rules with NOPASSWD; all of them when authentication is off for everybody."""
    if defaults(document).get("authenticate") is False:
        yield "everybody"
    for entry in document.get("Defaults", []):
        if "Binding" in entry and any(o.get("authenticate") is False for o in entry.get("Options", [])):
            yield from map(_name, entry["Binding"])
    for spec in document.get("User_Specs", []):
        free = any(
            option.get("authenticate") is False
            for command in spec["Cmnd_Specs"]
            for option in command.get("Options", [])
        )
        if free:
            yield from map(_name, spec["User_List"])


def _name(user: Mapping[str, Any]) -> str:
    kind, value = next(iter(user.items()))
    return f"%{value}" if kind in ("usergroup", "usergid") else str(value)


CHECKS = {"sudoers": sudoers}
