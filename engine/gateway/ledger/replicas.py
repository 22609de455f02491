"""Which replica a request goes to: the one with the fewest requests, those that do not answer last. Pure."""

from __future__ import annotations

from engine.gateway.configuration import ServedModel

DOWN_S = 5.0  # a replica that could not be reached is asked last for so long


class Replicas:
    """Requests at each replica of each model, as the ledger assigned them."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], int] = {}
        self._down: dict[tuple[str, int], float] = {}
        self._assigned: dict[str, tuple[str, int]] = {}

    def slots(self, model: ServedModel, now: float) -> int:
        """Requests that the live replicas answer at once; when all seem down, as many as one has, to find out."""
        live = sum(1 for i in range(len(model.replicas)) if not self._is_down(model.name, i, now))
        return model.slots * max(1, live)

    def order(self, rid: str, model: ServedModel, now: float) -> list[int]:
        """Replicas in the order in which the request should try them; it counts at the first."""
        found = sorted(
            range(len(model.replicas)),
            key=lambda i: (self._is_down(model.name, i, now), self._running.get((model.name, i), 0), i),
        )
        self.release(rid)
        at = self._assigned[rid] = (model.name, found[0])
        self._running[at] = self._running.get(at, 0) + 1
        return found

    def release(self, rid: str) -> None:
        """The request ended."""
        if (at := self._assigned.pop(rid, None)) is not None:
            self._running[at] -= 1

    def down(self, model: str, replica: int, now: float) -> None:
        """A worker could not reach the replica."""
        self._down[model, replica] = now + DOWN_S

    def _is_down(self, model: str, replica: int, now: float) -> bool:
        return self._down.get((model, replica), 0.0) > now
