"""Which state of a node a rollback means: chosen here, so that it can be said before anything moves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.report import printable

PREVIOUS = "previous"
SHOWN = 4  # files that are named; JSON has all


@dataclass(frozen=True)
class State:
    """A generation that a node keeps: its number, its release, and when it was kept (ISO 8601, UTC).

    ``differs`` are the files that are not as in the current one; None where the node's engine is too old to say.
    """

    number: int
    release: str
    made: str
    differs: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"generation {self.number} ({self.release}, kept {self.made[:16].replace('T', ' ')})"


@dataclass(frozen=True)
class Aim:
    """Where a node goes from and to; ``why`` says why it cannot."""

    now: State | None = None
    to: State | None = None
    why: str = ""

    @property
    def difference(self) -> str:
        """What the step changes on the node, in words."""
        if self.to is None or self.to.differs is None:
            return ""
        if not self.to.differs:
            return "no file differs"
        shown = ", ".join(self.to.differs[:SHOWN])
        more = len(self.to.differs) - SHOWN
        count = len(self.to.differs)
        return f"{count} file{'' if count == 1 else 's'} differ{'s' if count == 1 else ''}: {shown}" + (
            f" and {more} more" if more > 0 else ""
        )


def aim(told: Mapping[str, Any], to: str) -> Aim:
    """What ``to`` means on a node.

    Args:
        told: the node's answer to `appliance-engine generation list`.
        to: ``previous``, the newest state of the release before; a release, its newest state; or the number of a generation.
    """
    kept = _states(told.get("generations"))
    now = next((s for s in kept if s.number == told.get("current")), None)
    if now is None:
        return Aim(why="it keeps no state of what runs now; install a release first")
    if to == PREVIOUS:
        found = [s for s in kept if s.number < now.number and s.release != now.release]
        why = f"it keeps no release before {now.release}"
    elif to.isdigit():
        found, why = [s for s in kept if s.number == int(to)], f"it keeps no generation {to}"
    else:
        found, why = [s for s in kept if s.release == to], f"it keeps no state of {to}"
    if not found:
        return Aim(now, why=f"{why}, but {', '.join(map(str, kept))}; name one of them with --to")
    return Aim(now, found[-1])


def _states(told: object) -> list[State]:
    """What a node lists, oldest first; whatever is no state is passed over."""
    found = []
    for entry in told if isinstance(told, Iterable) and not isinstance(told, str) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("number"), int):
            paths = entry.get("differs")
            differs = tuple(printable(str(p), keep="")[:300] for p in paths) if isinstance(paths, list) else None
            found.append(State(entry["number"], str(entry.get("release")), str(entry.get("made")), differs))
    return sorted(found, key=lambda s: s.number)
