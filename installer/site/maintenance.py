"""When a node may be rebooted, and why it should be. Pure; the role nvidia_driver asks through its filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def inside(window: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether ``now``, the node's local time, lies in the window.

    A window that ends before it begins reaches into the next day and belongs to the day it begins on. Without days it is
    open every day; None is never.
    """
    if not window:
        return False
    days = window.get("days") or DAYS
    begin, end = time.fromisoformat(window["from"]), time.fromisoformat(window["to"])
    today, yesterday = DAYS[now.weekday()], DAYS[(now - timedelta(days=1)).weekday()]
    if begin < end:
        return today in days and begin <= now.time() < end
    return (today in days and now.time() >= begin) or (yesterday in days and now.time() < end)


def reboot_reasons(state: Mapping[str, Any], version: str, kernel: str) -> list[str]:
    """Why what runs is not what is installed; empty when nothing asks for a reboot.

    Args:
        state: as ``python -m engine.driver state`` prints it.
    """
    reasons = []
    if state["kernel"] != kernel:
        reasons.append(f"kernel {state['kernel']} runs, {kernel} is installed")
    if not state["running_version"]:
        reasons.append(f"no kernel module of NVIDIA is loaded, {version} is installed")
    elif state["running_version"] != version:
        reasons.append(f"kernel module {state['running_version']} is loaded, {version} is installed")
    return reasons


def fallback(kernels: Mapping[str, str], running: str, wanted: str, held: Sequence[str] = ()) -> str:
    """The package of the kernel to boot when the wanted one does not.

    It is the running one; when that is the wanted one, what was held for this before, else the newest other.

    Args:
        kernels: installed packages ``linux-image-…`` and their versions.
    """
    others = [n for n in kernels if not n.endswith(f"image-{wanted}")]
    if f"linux-image-{running}" in others:
        return f"linux-image-{running}"
    return max([n for n in others if n in held] or others, key=_numbers, default="")


def stale(held: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Packages that an earlier set held and this one does not."""
    return sorted(set(held) - set(kept))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.replace("-", ".").replace("+", ".").split(".") if part.isdigit())
