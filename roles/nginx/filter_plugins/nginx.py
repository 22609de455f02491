"""Filters of the role nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from engine.rules import names


def nginx_faults(port: object, server_names: Iterable[str], clients: Iterable[str], service: str) -> list[str]:
    """What cannot be written into the configuration, each as one sentence with the remedy."""
    return [fault.sentence("appliance_nginx_") for fault in names.edge(port, server_names, clients, service)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"nginx_faults": nginx_faults}
