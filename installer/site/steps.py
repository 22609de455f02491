"""The steps that a run takes on a node, in words of people: roles by number as the playbooks take them, and parts of roles between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from installer.site.events import NodeState

# The one place that says what people call a role; a unit test demands every directory of roles/.
WORDS = {
    "container_runtime": "containers",
    "content": "release content",
    "cuda": "CUDA",
    "dcgm_exporter": "GPU metrics",
    "firewall": "firewall",
    "gateway": "gateway (tenants)",
    "gpu_devices": "GPU device files",
    "mig": "GPU slices (MIG)",
    "model_store": "model store",
    "nginx": "nginx proxy",
    "node": "directories and engine",
    "nvidia_driver": "GPU driver",
    "os_baseline": "hardening",
    "pki": "certificates",
    "vllm": "vLLM services",
}
# Parts of roles that the playbooks run alone (`tasks_from`); the same test demands every one of them.
PARTS = {
    ("gateway", "configuration"): "tenants of the gateway",
    ("gateway", "removed"): "end of a gateway without tenants",
    ("gateway", "users"): "users of the gateway",
    ("node", "keep"): "keeping this state",
    ("node", "switch"): "switch to the release",
    ("nginx", "drain"): "taking the node out of service",
    ("os_baseline", "accept"): "record of files for the integrity check",
    ("nvidia_driver", "wait"): "maintenance window of the GPU driver",
    ("vllm", "gate"): "regression check",
    ("vllm", "measure"): "measurement before the upgrade",
}


@dataclass(frozen=True)
class Step:
    """Where a node is. ``number`` is 0 for a part of a role, which has no place in the count ``of`` all roles."""

    words: str
    number: int = 0
    of: int = 0

    def __str__(self) -> str:
        return f"{self.number} of {self.of}: {self.words}" if self.number else self.words


def words_of(role: str) -> str:
    """What people call a role; a name that is none, such as `preflight`, stays as it is."""
    return WORDS.get(role, role)


def task_words(task: str) -> str:
    """A task as events name it (`role: task`), with the role in words."""
    role, colon, rest = task.partition(": ")
    return f"{WORDS[role]}: {rest}" if colon and role in WORDS else task


def step_of(state: NodeState, order: Mapping[str, int]) -> Step | None:
    """The step of a node's current task; None for a task of the playbook itself.

    Args:
        order: number of every role from 0, as ``owned.order`` reads it from the playbooks.
    """
    if not state.role:
        return None
    if part := PARTS.get((state.role, state.file)):
        return Step(part)
    number = order.get(state.role)
    return Step(words_of(state.role), 0 if number is None else number + 1, len(order))


def words_of_unit(unit: str, declarations: list[dict[str, Any]]) -> str:
    """What people call the role that a unit of systemd belongs to; empty when it is no role's.

    Args:
        declarations: of all roles, from ``owned.declarations``.
    """
    for own in declarations:
        if any(fnmatchcase(unit, pattern) for kind in ("units", "instances") for pattern in own[kind]):
            return words_of(own["role"])
    return ""
