"""Ansible's events turned into what people and records need: who did what, what changed, what failed and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from engine.errors import ApplianceError
from installer.site import skew

CENSORED = "censored"  # the word Ansible puts in place of results with no_log


@dataclass(frozen=True)
class Failure:
    """Why a node stopped."""

    node: str
    task: str
    role: str
    reason: str
    unreachable: bool = False


@dataclass
class NodeState:
    """One node's progress through a run."""

    role: str = ""
    task: str = ""
    file: str = ""  # name of the role's file that the task is in, without .yml: `main`, `drain`
    ok: int = 0
    changed: int = 0
    changes: list[str] = field(default_factory=list)
    failure: Failure | None = None
    nothing_yet: bool = False  # a dry run found no engine, and ended where it would be needed
    waiting: str = ""  # what the node waits for; it was left as it is
    # In a dry run with differences: the text before and after of every file that would change, by path; and what a fetch would bring.
    diffs: dict[str, tuple[str, str]] = field(default_factory=dict)
    fetch_bytes: int = 0


Listener = Callable[[str, NodeState, str], None]  # node, its state, and what happened: task, ok, changed, failed


class Tracker:
    """Follows a run. Pure: takes event dictionaries, holds state, tells a listener.

    Args:
        engine: version of the engine that the roles call on nodes; empty where nobody knows.
        conceal: takes out of a reason what must not be shown or kept.
    """

    def __init__(
        self,
        nodes: list[str],
        listener: Listener | None = None,
        engine: str = "",
        conceal: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.nodes = {name: NodeState() for name in nodes}
        self._listener = listener or (lambda _node, _state, _what: None)
        self._engine = engine
        self._conceal = conceal

    def handle(self, event: dict[str, Any]) -> bool:
        """One event of ansible-runner; returns True, which tells the runner to keep it."""
        data = _table(event.get("event_data"))
        node = data.get("host", "")
        handler = {
            "runner_on_start": self._start,
            "runner_on_ok": self._ok,
            "runner_item_on_ok": self._item,
            "runner_on_failed": self._failed,
            "runner_on_unreachable": self._unreachable,
        }.get(event.get("event", ""))
        if handler and node in self.nodes:
            handler(node, data)
        return True

    def _start(self, node: str, data: dict[str, Any]) -> None:
        state = self.nodes[node]
        state.role, state.task = data.get("role", ""), data.get("task", "")
        state.file = PurePosixPath(str(data.get("task_path") or "").rpartition(":")[0]).stem
        self._listener(node, state, "task")

    def _ok(self, node: str, data: dict[str, Any]) -> None:
        state = self.nodes[node]
        result = _table(data.get("res"))
        self._note(state, result)
        if result.get("changed"):
            state.changed += 1
            state.changes.append(label(data))
            self._listener(node, state, "changed")
        else:
            state.ok += 1
            self._listener(node, state, "ok")

    def _item(self, node: str, data: dict[str, Any]) -> None:
        self._note(self.nodes[node], _table(data.get("res")))

    @staticmethod
    def _note(state: NodeState, result: dict[str, Any]) -> None:
        """What a plan needs of a result: how files would change, and how much would travel."""
        learnt = _table(result.get("ansible_facts"))
        if learnt.get("appliance_nothing_yet") is True:
            state.nothing_yet = True
        if said := learnt.get("appliance_waiting"):
            state.waiting = str(said)
        found = result.get("diff")
        for diff in found if isinstance(found, list) else [found]:
            path, told = _path(result), _table(diff)
            if result.get("changed") and path and (told.get("before") or told.get("after")):
                state.diffs[path] = (_text(told.get("before")), _text(told.get("after")))
        with suppress(ValueError, TypeError):
            told = _table(json.loads(str(result.get("stdout") or "")))
            if told.keys() >= {"release", "missing", "lacking_bytes"}:
                state.fetch_bytes += int(told["lacking_bytes"])

    def _failed(self, node: str, data: dict[str, Any]) -> None:
        if data.get("ignore_errors"):
            return
        result = _table(data.get("res"))
        why = (
            skew.told("", self._engine)
            if skew.unknown(_code(result), str(result.get("stderr", "")))
            else reason(result)
        )
        self._fail(Failure(node, data.get("task", ""), data.get("role", ""), why))

    def _unreachable(self, node: str, data: dict[str, Any]) -> None:
        said = str(_table(data.get("res")).get("msg", "")).strip()
        self._fail(
            Failure(node, data.get("task", ""), data.get("role", ""), f"it cannot be reached: {said}", unreachable=True)
        )

    def _fail(self, failure: Failure) -> None:
        state = self.nodes[failure.node]
        if state.failure is None:  # the first failure is the cause, later ones follow from it
            state.failure = replace(failure, reason=self._conceal(failure.reason))
            self._listener(failure.node, state, "failed")

    @property
    def failures(self) -> list[Failure]:
        return [s.failure for s in self.nodes.values() if s.failure]

    @property
    def changed(self) -> int:
        return sum(s.changed for s in self.nodes.values())


def label(data: dict[str, Any]) -> str:
    """`role: task (item)` of a change."""
    role, task = data.get("role", ""), data.get("task", "")
    return f"{role}: {task}" if role else str(task)


def _table(value: Any) -> dict[str, Any]:
    """A node's answer is what its modules print; only tables are looked into."""
    return value if isinstance(value, dict) else {}


def _code(result: dict[str, Any]) -> int | None:
    """How a task's command exited; None where the task runs none."""
    code = result.get("rc")
    return code if isinstance(code, int) else None


def _path(result: dict[str, Any]) -> str:
    """The file that a module would change."""
    invocation = _table(_table(result.get("invocation")).get("module_args"))
    return str(result.get("dest") or result.get("path") or invocation.get("dest") or invocation.get("path") or "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True) if value else ""


def reason(result: dict[str, Any], *, depth: int = 3) -> str:
    """The words that explain a failed task, from whichever field of a module's result holds them."""
    if CENSORED in result:
        return "the result is hidden because it may hold a secret; run the task on the node to see it"
    if said := _engine_error(str(result.get("stderr", ""))):
        return said
    results = result.get("results")
    items = [r for r in results if _table(r).get("failed")] if isinstance(results, list) else []
    if items and depth:
        return "\n".join(
            f"{r.get('_ansible_item_label', r.get('item', ''))}: {reason(r, depth=depth - 1)}" for r in items
        )[-2000:]
    parts = [str(result[k]).strip() for k in ("msg", "stderr", "stdout") if str(result.get(k, "")).strip()]
    text = "\n".join(dict.fromkeys(parts)) or "no reason given"
    return text[-2000:]


def _engine_error(stderr: str) -> str:
    """The engine ends with its error as JSON on the last line."""
    try:
        error = json.loads(stderr.strip().splitlines()[-1])["error"]
        return str(ApplianceError(error["what"], where=error["where"], remedy=error["remedy"]))
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return ""
