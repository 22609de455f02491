"""Filters of the role model_store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.rules import store


def store_faults(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the variables, each as one sentence with the remedy."""
    return [fault.sentence("appliance_model_store_") for fault in store.store(given)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"store_faults": store_faults}
