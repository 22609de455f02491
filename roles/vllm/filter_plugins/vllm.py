"""Filters of the role vllm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.rules import services


def vllm_faults(given: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the served models, each as one sentence with the remedy."""
    return [fault.sentence("appliance_vllm_") for fault in services.services(given)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vllm_faults": vllm_faults}
