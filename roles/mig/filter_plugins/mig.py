"""Filters of the role mig."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from installer.compat import choice


def mig_faults(
    devices: Sequence[int], layout: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What the GPUs cannot hold, and services without a slice."""
    ids = [int(d) for d in devices]
    return [*choice.mig(ids, layout), *choice.slices(len(ids), layout, services)]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"mig_faults": mig_faults, "mig_devices": choice.mig_devices}
