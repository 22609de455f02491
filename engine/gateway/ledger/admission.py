"""Which request may run now: slots of a model, shared by classes, with a queue for each. Pure: time comes in as an argument.

Short queues at the model servers are what makes a class mean something, so no more requests run than live replicas have slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.gateway.configuration import ORDER, Class, Classes


@dataclass
class Waiting:
    rid: str
    since: float
    until: float


@dataclass
class ModelSlots:
    """The requests of one model."""

    running: dict[Class, int] = field(default_factory=lambda: dict.fromkeys(ORDER, 0))
    queues: dict[Class, deque[Waiting]] = field(default_factory=lambda: {c: deque() for c in ORDER})


class Admission:
    """Slots and queues of all models."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self._models: dict[str, ModelSlots] = {}
        self._running: dict[str, tuple[str, Class]] = {}
        self._waiting: dict[str, tuple[str, Class]] = {}

    def offer(self, rid: str, model: str, class_: Class, slots: int, now: float) -> str:
        """``run``, ``wait`` or ``full``, when the class's queue has no room."""
        state = self._models.setdefault(model, ModelSlots())
        if not state.queues[class_] and self._fits(state, class_, slots):
            self._run(state, rid, model, class_)
            return "run"
        policy = self.classes[class_]
        if len(state.queues[class_]) >= policy.queue_length or policy.queue_s == 0:
            return "full"
        state.queues[class_].append(Waiting(rid, now, now + policy.queue_s))
        self._waiting[rid] = (model, class_)
        return "wait"

    def waits(self, rid: str) -> bool:
        """Whether a request is in a queue."""
        return rid in self._waiting

    def resume(self, rid: str, model: str, class_: Class) -> None:
        """Count a request that runs already (after a restart)."""
        self._run(self._models.setdefault(model, ModelSlots()), rid, model, class_)

    def release(self, rid: str) -> str | None:
        """A request ended or is no longer waited for. The model whose slots changed, if any."""
        if (found := self._running.pop(rid, None)) is not None:
            self._models[found[0]].running[found[1]] -= 1
            return found[0]
        if (found := self._waiting.pop(rid, None)) is not None:
            queue = self._models[found[0]].queues[found[1]]
            for waiting in queue:
                if waiting.rid == rid:
                    queue.remove(waiting)
                    break
        return None

    def grant(self, model: str, slots: int) -> Iterator[str]:
        """Start as many waiting requests as fit: classes below their minimum first, then the highest class, each in order."""
        state = self._models.get(model)
        while state is not None and (class_ := self._next(state, slots)) is not None:
            waiting = state.queues[class_].popleft()
            del self._waiting[waiting.rid]
            self._run(state, waiting.rid, model, class_)
            yield waiting.rid

    def expired(self, now: float) -> list[str]:
        """Requests that waited too long; they wait no more."""
        late = []
        for state in self._models.values():
            for queue in state.queues.values():
                while queue and queue[0].until <= now:
                    rid = queue.popleft().rid
                    del self._waiting[rid]
                    late.append(rid)
        return late

    def models(self) -> list[str]:
        """Models that have requests."""
        return list(self._models)

    def counts(self, model: str) -> tuple[int, int]:
        """How many requests of a model run and wait."""
        state = self._models.get(model) or ModelSlots()
        return sum(state.running.values()), sum(len(q) for q in state.queues.values())

    def _run(self, state: ModelSlots, rid: str, model: str, class_: Class) -> None:
        state.running[class_] += 1
        self._running[rid] = (model, class_)

    def _fits(self, state: ModelSlots, class_: Class, slots: int) -> bool:
        policy = self.classes[class_]
        most = max(1, policy.minimum_slots, slots * policy.share_percent // 100)
        return sum(state.running.values()) < slots and state.running[class_] < most

    def _next(self, state: ModelSlots, slots: int) -> Class | None:
        able = [c for c in ORDER if state.queues[c] and self._fits(state, c, slots)]
        starved = [c for c in able if state.running[c] < self.classes[c].minimum_slots]
        return next(iter([*starved, *able]), None)
