"""Units that run with something older than what is written: their restart was skipped, or lost with a run that was killed.

Told by time: a file that a unit is made of or reads was written after the unit started (or was reloaded, where it can be). Served
models and containers are compared by content where they are configured, and the firewall by its rules in force; they are left out here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.generation import tree, units
from engine.process import run

ASKED = (
    "Id", "ActiveState", "Type", "RemainAfterExit", "CanReload", "FragmentPath", "DropInPaths", "ActiveEnterTimestampMonotonic",
    "StateChangeTimestampMonotonic", "Triggers",
)  # fmt: skip
ELSEWHERE = (units.SERVICES, "appliance-container-", "appliance-port-", *units.APART)
_CONFIGURATION = re.compile(r"/etc/appliance/[^\s;:\"']+")
SLACK_S = 0.01  # a file system counts time in coarser steps than the clock


@dataclass(frozen=True)
class Missed:
    """A unit, the file that it does not run with, and the units that are restarted with it; ``reload`` where that is enough."""

    unit: str
    file: str
    reload: bool
    along: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.unit} runs with something older than {self.file}"


def find(root: Path = Path("/")) -> tuple[Missed, ...]:
    """All units of appliance that missed a restart or a reload."""
    names = [f"{p}*{s}" for p in tree.PREFIXES for s in (".service", ".socket", ".timer", ".path")]
    shown = run(["systemctl", "show", f"--property={','.join(ASKED)}", *names]).stdout
    booted = time.time() - time.monotonic()
    return judge(shown, root, booted, time.time())


def repair(missed: Iterable[Missed]) -> None:
    """Restart or reload them."""
    run(["systemctl", "daemon-reload"])
    for one in missed:
        run(["systemctl", "try-reload-or-restart" if one.reload else "restart", one.unit, *one.along])


def judge(shown: str, root: Path, booted: float, now: float) -> tuple[Missed, ...]:
    """What `systemctl show` says of several units, against the files below ``root``.

    Args:
        booted: when the monotonic clock began, in seconds of the wall clock.
        now: the wall clock; files from the future say nothing.
    """
    told = [dict(x.split("=", 1) for x in b.splitlines() if "=" in x) for b in shown.strip().split("\n\n")]
    active = {t["Id"] for t in told if t.get("ActiveState") == "active"}
    found = []
    for unit in told:
        name = unit.get("Id", "")
        ends = unit.get("Type") == "oneshot" and unit.get("RemainAfterExit") == "no"
        if name not in active or ends or name.startswith(ELSEWHERE):
            continue
        since = booted + _since(unit) / 1e6
        newer = (p for p in _files(unit, root) if since + SLACK_S < (root / p).stat().st_mtime <= now)
        if file := next(newer, ""):
            along = [t for t in unit.get("Triggers", "").split() if name.endswith(".socket") and t in active]
            found.append(Missed(name, f"/{file}", _reloads(unit, file), tuple(along)))
    return tuple(sorted(found, key=lambda m: m.unit))


def _since(unit: Mapping[str, str]) -> int:
    """When the unit last took in its files, in microseconds after boot. A reload changes the state and does not enter it again."""
    stamp = "StateChangeTimestampMonotonic" if unit.get("CanReload") == "yes" else "ActiveEnterTimestampMonotonic"
    return int(unit.get(stamp) or 0)


def _reloads(unit: Mapping[str, str], file: str) -> bool:
    """Whether a reload takes the file in: not one that the unit itself is made of."""
    return unit.get("CanReload") == "yes" and not file.startswith(f"{tree.UNITS}/")


def _files(unit: Mapping[str, str], root: Path) -> list[str]:
    """What the unit is made of, what that names below /etc/appliance, and what such a configuration names in turn; without the leading slash."""
    own = [p.lstrip("/") for p in (unit.get("FragmentPath", ""), *unit.get("DropInPaths", "").split()) if p]
    own = [p for p in own if (root / p).is_file()]
    instance = unit.get("Id", "").partition("@")[2].rpartition(".")[0]
    named = _named(own, root, instance)
    return [*own, *named, *_named([p for p in named if p.endswith(".conf")], root, instance)]


def _named(paths: Iterable[str], root: Path, instance: str) -> list[str]:
    found = []
    for path in paths:
        for name in _CONFIGURATION.findall((root / path).read_text(errors="replace")):
            relative = name.replace("%i", instance).lstrip("/")
            if (root / relative).is_file() and not relative.startswith(f"{tree.TENANTS}/"):  # its reader watches it
                found.append(relative)
    return found
