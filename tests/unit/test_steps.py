"""The steps of a run: named for people, counted as the playbooks take them, and told once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from installer.cli.install import listener
from installer.site import owned, records, steps
from installer.site.events import NodeState, Tracker
from tests.demo import TREE


class Told:
    """A screen that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.live: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def node(self, name: str, doing: str, number: int = 0, of: int = 0) -> None:
        self.live.append((doing, number, of))


class Run:
    """Events as ansible-runner hands them over, on one node."""

    def __init__(self) -> None:
        self.told = Told()
        self.tracker = Tracker(["n"], listener(self.told))  # type: ignore[arg-type]  # a screen in all that is used of it

    def task(self, role: str, file: str, name: str, ends: str = "ok", **result: Any) -> None:
        data = {"host": "n", "role": role, "task": name, "task_path": f"/x/roles/{role}/tasks/{file}.yml:7"}
        self.tracker.handle({"event": "runner_on_start", "event_data": data})
        self.tracker.handle({"event": f"runner_on_{ends}", "event_data": {**data, "res": result}})


def test_every_role_has_words_and_no_words_are_of_no_role() -> None:
    roles = {p.name for p in (TREE / "roles").iterdir() if (p / "tasks").is_dir()}
    assert set(steps.WORDS) == roles
    assert len(set(steps.WORDS.values())) == len(roles), "two roles that people could not tell apart"
    assert not any(steps.words_of(role) == role and "_" in role for role in roles)


def test_every_part_of_a_role_that_a_playbook_runs_alone_has_words() -> None:
    text = "".join((TREE / "playbooks" / name).read_text() for name in (*owned.PLAYBOOKS, "tenants.yml"))
    parts = set(re.findall(r"name: ([a-z_]+)\n\s+tasks_from: ([a-z_]+)", text))
    assert set(steps.PARTS) == parts
    assert all((TREE / "roles" / role / "tasks" / f"{part}.yml").is_file() for role, part in parts)


def test_roles_are_counted_in_the_order_of_the_playbooks() -> None:
    order = owned.order()
    of = len(steps.WORDS)
    assert str(steps.step_of(NodeState(role="node", file="main"), order)) == f"1 of {of}: directories and engine"
    assert str(steps.step_of(NodeState(role="firewall", file="verify"), order)) == f"5 of {of}: firewall"
    assert str(steps.step_of(NodeState(role="nginx", file="drain"), order)) == "taking the node out of service"
    assert steps.step_of(NodeState(task="Look for Python"), order) is None


def test_a_step_is_told_once_and_a_role_that_only_skips_is_not() -> None:
    run = Run()
    run.task("pki", "main", "Make a key")
    run.task("pki", "main", "Install the certificate", changed=True)
    run.task("os_baseline", "main", "Harden", ends="skipped")
    run.task("firewall", "main", "Apply the firewall")
    run.task("node", "switch", "Point at the release", changed=True)
    of = len(steps.WORDS)
    assert run.told.lines == [
        f"n: 2 of {of}: certificates",
        "n:   changed certificates: Install the certificate",
        f"n: 5 of {of}: firewall",
        "n: switch to the release",
        "n:   changed directories and engine: Point at the release",
    ]


def test_the_count_never_falls() -> None:
    run = Run()
    run.task("vllm", "main", "Start the services")
    run.task("firewall", "handlers", "Reload the firewall")
    run.task("node", "keep", "Keep the state")
    number = owned.order()["vllm"] + 1
    assert [told for _, told, _ in run.told.live] == [number, 0, 0]
    assert run.told.live[1][0] == "firewall: Reload the firewall"


def test_a_failure_comes_after_its_step() -> None:
    run = Run()
    run.task("vllm", "main", "Start the services", ends="failed", msg="out of memory")
    assert run.told.lines[0].endswith(": vLLM services")
    assert run.told.lines[1] == "n:   FAILED Start the services: out of memory"


def test_a_task_in_a_plan_is_told_in_words_and_another_stays() -> None:
    assert steps.task_words("os_baseline: Set the umask") == "hardening: Set the umask"
    assert steps.task_words("Look: at this") == "Look: at this" and steps.task_words("pki") == "pki"


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("appliance-vllm@tiny.service", "vLLM services"),
        ("appliance-nginx.service", "nginx proxy"),
        ("appliance-egress-proof.timer", "firewall"),
        ("ssh.service", ""),
    ],
)
def test_a_unit_is_told_by_what_it_belongs_to(unit: str, words: str) -> None:
    assert steps.words_of_unit(unit, owned.declarations()) == words


def report(runs: Path, name: str, **about: Any) -> None:
    (runs / name).mkdir()
    (runs / name / "report.json").write_text(json.dumps({"check": False, "good": True, "phases_s": {}} | about))


def test_the_last_time_is_that_of_the_newest_good_run_of_its_kind(tmp_path: Path) -> None:
    assert records.last_seconds(tmp_path / "none", check=False) is None
    report(tmp_path, "2026-1", phases_s={"total": 99.0, "nodes": 90.0})
    report(tmp_path, "2026-2", phases_s={"total": 43.2, "nodes": 40.0})
    report(tmp_path, "2026-3", phases_s={"total": 2.0})  # every node was as it was left
    report(tmp_path, "2026-4", phases_s={"total": 7.0, "nodes": 5.0}, good=False)
    report(tmp_path, "2026-5", phases_s={"total": 11.0, "nodes": 5.0}, check=True)
    (tmp_path / "2026-6").mkdir()
    (tmp_path / "2026-6/report.json").write_text("{")
    assert records.last_seconds(tmp_path, check=False) == 43.2
    assert records.last_seconds(tmp_path, check=True) == 11.0
