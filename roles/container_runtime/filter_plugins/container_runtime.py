"""Filters of the role container_runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.rules import containers


def container_faults(given: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the containers of a node, each as one sentence with the remedy."""
    return [fault.sentence("appliance_container_runtime_") for fault in containers.containers(given)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"container_faults": container_faults}
