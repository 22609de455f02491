"""Filters of the role nvidia_driver: decisions that the installer's own tables make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from installer.compat import choice
from installer.site import maintenance


def nvidia_modules(devices: Sequence[int], version: str, asked: str) -> dict[str, Any]:
    """``flavour`` and ``faults`` for GPUs by PCI identifier."""
    return asdict(choice.modules([int(d) for d in devices], str(version), str(asked)))


def nvidia_in_window(now: str, window: Mapping[str, Any] | None) -> bool:
    """Whether the node's local time, ISO 8601, lies in the maintenance window."""
    return maintenance.inside(window, datetime.fromisoformat(str(now)))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "nvidia_modules": nvidia_modules,
            "nvidia_in_window": nvidia_in_window,
            "nvidia_reboot_reasons": maintenance.reboot_reasons,
            "nvidia_fallback": maintenance.fallback,
            "nvidia_stale": maintenance.stale,
        }
