"""Filters of the role nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.rules import names


def nginx_faults(
    port: object, server_names: Iterable[str], clients: Iterable[str], upstreams: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What cannot be written into the configuration, each as one sentence with the remedy."""
    found = (*names.edge(port, server_names, clients), *names.upstreams(upstreams))
    return [fault.sentence("appliance_nginx_") for fault in found]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"nginx_faults": nginx_faults}
