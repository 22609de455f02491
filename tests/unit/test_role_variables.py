"""Names of variables in roles: what a task defines for itself must not lose to what another task has registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).parents[2]
BLOCKS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")


def tasks(found: Any) -> Iterator[dict[str, Any]]:
    """Every task of a playbook or a list of tasks, also inside blocks."""
    for task in found if isinstance(found, list) else ():
        if isinstance(task, dict):
            yield task
            for key in BLOCKS:
                yield from tasks(task.get(key))


def of(pattern: str) -> list[dict[str, Any]]:
    return [t for path in TREE.glob(pattern) for t in tasks(yaml.safe_load(path.read_text()))]


@pytest.mark.parametrize("role", sorted(p.parent.name for p in TREE.glob("roles/*/tasks")))
def test_no_variable_of_a_task_is_hidden_by_a_registered_one(role: str) -> None:
    """Registered variables and facts win over ``vars`` of a task (Ansible, Variable precedence), for the rest of the play."""
    own = {
        name
        for t in [*of(f"roles/{role}/tasks/**/*.yml"), *of(f"roles/{role}/handlers/*.yml")]
        for name in t.get("vars") or ()
    }
    others = [*of(f"roles/{role}/**/*.yml"), *of("tests/molecule/**/*.yml"), *of("roles/*/tasks/**/*.yml")]
    lasting = {str(t["register"]) for t in others if "register" in t}
    lasting |= {name for t in others for name in t.get("ansible.builtin.set_fact") or () if isinstance(name, str)}
    assert own & lasting == set()
