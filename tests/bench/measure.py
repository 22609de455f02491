"""Measure ours against a baseline, side by side: A B A B, medians, and the facts of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Run = Callable[[], float]


@dataclass(frozen=True)
class Claim:
    """What is claimed. ``target`` bounds ours / baseline: from above, or from below where ``higher`` is set.

    Attributes:
        unit: of both sides; ``s`` is wall-clock time.
    """

    name: str
    unit: str
    baseline: str
    target: float
    higher: bool = False


@dataclass(frozen=True)
class Pair:
    """The two runs behind the claim called ``name``; each returns a value in the claim's unit.

    Attributes:
        rounds: fewer than asked for, where one round takes minutes.
        warm: whether an unmeasured turn of each side comes first.
    """

    name: str
    ours: Run
    baseline: Run
    rounds: int | None = None
    warm: bool = True


def compare(claim: Claim, pair: Pair, rounds: int) -> dict[str, Any]:
    """Interleave both sides, so that drift of the machine hits both alike.

    ``best_ratio`` compares the best run of each side: on a machine that others use too it says more than the medians,
    by which the target is judged.
    """
    rounds = min(rounds, pair.rounds or rounds)
    if pair.warm:
        pair.ours()
        pair.baseline()
    sides = list(zip(*[(pair.ours(), pair.baseline()) for _ in range(rounds)], strict=True))
    ours, baseline = (statistics.median(side) for side in sides)
    best = max if claim.higher else min
    ratio = ours / baseline
    return {
        "name": claim.name,
        "value": _digits(ours),
        "unit": claim.unit,
        "baseline": claim.baseline,
        "baseline_value": _digits(baseline),
        "ratio": round(ratio, 4),
        "target": claim.target,
        "met": ratio >= claim.target if claim.higher else ratio <= claim.target,
        "best_ratio": round(best(sides[0]) / best(sides[1]), 4),
        "rounds": rounds,
        "spread": round((max(sides[0]) - min(sides[0])) / ours, 3) if ours else 0.0,
        "load": load(),
    }


def _digits(value: float) -> float:
    """Five significant digits: a value may be microseconds or gigabytes."""
    return float(f"{value:.5g}")


def seconds(action: Callable[[], object]) -> Run:
    """A run that returns how long ``action`` took, in seconds."""

    def run() -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    return run


def command(*argv: str | Path, **settings: Any) -> Run:
    """A run of a program, in seconds. A failure stops the bench: a fast refusal is no result."""
    return seconds(lambda: call(argv, **settings))


def call(argv: Sequence[str | Path], **settings: Any) -> None:
    """Run a program without its output; it must succeed."""
    done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **settings)
    if done.returncode:
        words = " ".join(map(str, argv[:6]))
        raise SystemExit(
            f"bench: {words} … ended with {done.returncode}: {done.stderr.decode(errors='replace')[-1000:]}"
        )


def forget(*trees: Path) -> None:
    """Take every file below ``trees`` out of the page cache. Only what is on disk can go, so it is flushed first."""
    for tree in trees:
        for path in tree.rglob("*"):
            if path.is_file() and not path.is_symlink():
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


def load() -> float:
    """Processes that wanted a core in the last minute, on average; ours are among them."""
    return round(os.getloadavg()[0], 2)


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
        "load": load(),
    }
