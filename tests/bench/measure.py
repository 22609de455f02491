"""Measure ours against a baseline, side by side: A B A B, medians, and the facts of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Run = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One comparison. ``ours`` and ``baseline`` return values of the same ``unit``.

    ``target`` bounds ours / baseline: from above where a smaller ratio is better, from below where ``higher`` is set.
    """

    name: str
    unit: str
    ours: Run
    baseline_name: str
    baseline: Run
    target: float
    higher: bool = False


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Interleave both sides after one unmeasured turn of each, so that drift of the machine hits both alike."""
    case.ours()
    case.baseline()
    pairs = [(case.ours(), case.baseline()) for _ in range(rounds)]
    ours, baseline = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = ours / baseline
    return {
        "name": case.name,
        "value": round(ours, 4),
        "unit": case.unit,
        "baseline": case.baseline_name,
        "baseline_value": round(baseline, 4),
        "ratio": round(ratio, 4),
        "target": case.target,
        "met": ratio >= case.target if case.higher else ratio <= case.target,
        "rounds": rounds,
        "spread": round((max(p[0] for p in pairs) - min(p[0] for p in pairs)) / ours, 3),
    }


def seconds(action: Callable[[], object]) -> Run:
    """A run that returns how long ``action`` took, in seconds."""

    def run() -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    return run


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models: Iterator[str] = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "name": "machine",
        "cpu": next(models, platform.machine()),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }
