"""What a switch does to systemd: which units must stop, and in which order what comes back.

The order is that of a drain: the edge stops first, which lets running answers end and takes no new ones, then the services; they
come back the other way round, the edge last, when everything behind it answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ApplianceError
from engine.generation import tree
from engine.generation.tree import Entries
from engine.process import ProcessError, run

EDGE = "appliance-nginx.service"
EDGE_CONFIGURATION = "etc/appliance/nginx/nginx.conf"
# While this file is there, the edge of a site's only gateway answers 503 with Retry-After; its configuration names it. It goes with the unit.
DRAINED = "run/appliance-nginx/drained"
SERVICES = "appliance-vllm@"
# The firewall puts its rules back itself and with a confirmation; stopping its unit would take them away.
APART = ("appliance-firewall.service",)
SUFFIXES = (".service", ".socket", ".timer", ".path", ".mount")
_PATH = re.compile(r"/(?:etc|opt)/appliance/[^\s;:\"']+")


@dataclass(frozen=True)
class Moves:
    """Units to stop, in order; to start again, in order. ``gone`` are no unit any more after the switch.

    ``answers``: the edge goes on running and answers that the node is out of service.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    answers: bool = False


def moves(
    changed: Iterable[str], before: Entries, after: Entries, loaded: Iterable[str], read: Callable[[str], str]
) -> Moves:
    """What the change of these paths asks for. Pure, except for ``read``. The edge of a site's only gateway goes on running where it
    can: there is nobody else to answer.

    Args:
        changed: paths that differ between ``before`` and ``after``.
        loaded: units of ours that systemd knows now, instances of templates included.
        read: the text of a unit file or drop-in as it was before the change.
    """
    paths = set(changed)
    known = {u for u in loaded if u.endswith(SUFFIXES)} - set(APART)
    touched = {u for u in known if tree.CURRENT in paths or _inputs(u, before, read) & paths}
    after_units = wanted(after)
    answers = EDGE in known & after_units and _can_answer(before, read) and not _own(EDGE, before) & paths
    touched -= {EDGE} if answers else set()
    gone = {u for u in known if not _file(u, after)}
    comes = {u for u in after_units - known if _file(u, after)} - set(APART)
    return Moves(
        tuple(sorted(touched | gone, key=_stopping)),
        tuple(sorted(((touched & after_units) | comes) - gone, key=_stopping, reverse=True)),
        tuple(sorted(gone)),
        answers,
    )


def _can_answer(entries: Entries, read: Callable[[str], str]) -> bool:
    return EDGE_CONFIGURATION in entries and DRAINED in read(EDGE_CONFIGURATION)


def wanted(entries: Entries) -> set[str]:
    """Units that start at boot: those that a `.wants` directory links to."""
    return {Path(p).name for p in entries if p.startswith(f"{tree.UNITS}/") and ".wants/" in p}


def _stopping(unit: str) -> tuple[int, str]:
    if unit == EDGE:
        return 0, unit
    if unit.startswith(SERVICES):
        return 2, unit
    return (3 if unit.endswith(".mount") else 1), unit


def _inputs(unit: str, entries: Entries, read: Callable[[str], str]) -> set[str]:
    """Our files that a unit is made of or reads: its own, its drop-ins, and every path below our directories that they name."""
    own = _own(unit, entries)
    instance = unit.partition("@")[2].rpartition(".")[0]
    named: set[str] = set()
    for path in own:
        for found in _PATH.findall(read(path)):
            named.add(found.replace("%i", instance).lstrip("/"))
    return own | {p for p in entries if any(p == n or p.startswith(f"{n.rstrip('/')}/") for n in named)}


def _own(unit: str, entries: Entries) -> set[str]:
    """The files that a unit is made of."""
    file = _file(unit, entries)
    return ({file} if file else set()) | {p for p in entries if p.startswith(f"{tree.UNITS}/{unit}.d/")}


def _file(unit: str, entries: Entries) -> str:
    template = re.sub(r"@[^.]*\.", "@.", unit)
    found = (f"{tree.UNITS}/{name}" for name in (unit, template))
    return next((p for p in found if p in entries), "")


def idle(shown: str) -> tuple[str, ...]:
    """Units that are not active, from what `systemctl show` says of several. Pure.

    One that does its work and ends is as it should be unless it failed, and so is one whose condition was not met.
    """
    found = []
    for block in shown.strip().split("\n\n"):
        told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        state = told.get("ActiveState", "")
        ends = told.get("Type") == "oneshot" and told.get("RemainAfterExit") == "no"
        excused = told.get("ConditionResult") == "no" and told.get("ConditionTimestampMonotonic", "0") != "0"
        if state != "active" and not (state in ("inactive", "activating") and (ends or excused)):
            found.append(told.get("Id", ""))
    return tuple(found)


class Systemd:
    """systemctl, as far as a switch needs it."""

    def loaded(self) -> tuple[str, ...]:
        """Units of ours that are loaded, whatever their state."""
        done = run(
            ["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", *(f"{p}*" for p in tree.PREFIXES)]
        )
        return tuple(line.split()[0] for line in done.stdout.splitlines() if line.split())

    def inactive(self, units: Iterable[str]) -> tuple[str, ...]:
        """Those that should be active and are not."""
        names = sorted(units)
        if not names:
            return ()
        asked = ",".join(
            ("Id", "ActiveState", "Type", "RemainAfterExit", "ConditionResult", "ConditionTimestampMonotonic")
        )
        done = run(["systemctl", "show", f"--property={asked}", *names])
        return idle(done.stdout)

    def missed(self) -> tuple[object, ...]:
        """Units that run with something older than what is written; each says so as text."""
        from engine.generation import missed  # noqa: PLC0415  it imports this module

        return missed.find()

    def stop(self, units: Iterable[str]) -> None:
        """Stop them one after the other; each ends what it has in hand first."""
        for unit in units:
            run(["systemctl", "stop", unit])

    def reload(self) -> None:
        """Read the unit files again."""
        run(["systemctl", "daemon-reload"])

    def reload_edge(self) -> None:
        """Let the edge read its configuration again; what it has in hand goes on. One that does not run is left alone."""
        run(["systemctl", "try-reload-or-restart", EDGE])

    def forget_failures(self) -> None:
        """Failed starts of what was there before must not count."""
        run(["systemctl", "reset-failed", *(f"{p}*" for p in tree.PREFIXES)], ok=range(256))

    def start(self, units: Iterable[str]) -> None:
        """Start them one after the other; a served model has started when a token came out.

        Raises:
            ApplianceError: one does not start; the rest is left alone.
        """
        for unit in units:
            try:
                run(["systemctl", "start", unit])
            except ProcessError as error:
                raise ApplianceError(
                    f"{unit} does not start after the switch",
                    where="this node",
                    remedy=f"Look at journalctl -u {unit}.",
                ) from error
