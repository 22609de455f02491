"""Filters of the role dcgm_exporter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from engine.rules import names


def dcgm_faults(port: object, address: str, clients: Iterable[str]) -> list[str]:
    """What cannot be written into the configuration, each as one sentence with the remedy."""
    return [fault.sentence("appliance_dcgm_exporter_") for fault in names.metrics(port, address, clients)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"dcgm_faults": dcgm_faults}
