"""A sandbox for programs and archives that others made: the best that this machine has.

``enter`` builds it, from inside a process of its own; here is which one this machine can have, and how to start a program in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from engine.bounds import Bounds
from engine.process import fixed, run
from installer.sandbox import enter

Way = Literal["namespaces", "user", "none"]
WORDS: dict[Way, str] = {
    "namespaces": "with a file system, user and processes of its own, and no network",
    "user": "as the user nobody; this machine gives no namespaces",
    "none": "without a sandbox; this machine gives neither namespaces nor another user",
}
TRY_S = 20  # a sandbox is there in milliseconds


@cache
def best() -> Way:
    """What this machine can have: namespaces (as root, or where users may make some), else another user (as root), else nothing."""
    ways: tuple[Way, ...] = ("namespaces", "user")
    for way in ways:
        if way == "user" and not enter.is_root():
            continue
        with tempfile.TemporaryDirectory(prefix="appliance-sandbox-") as place:
            argv = [*_entering(way, Path(place)), "--", "/bin/true"]
            try:
                done = subprocess.run(
                    argv, env=fixed(), stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired):
                continue
            if done.returncode == 0:
                return way
    return "none"


def reaching(way: Way, paths: Sequence[Path]) -> Way:
    """``way``, unless it is another user who cannot come to these paths: namespaces bring them along."""
    if way != "user" or all(p.stat().st_mode & 0o001 for path in paths for p in path.resolve().parents):
        return way
    return "none"


def call(
    program: Sequence[str | Path],
    *,
    place: Path,
    read: Sequence[Path],
    write: Sequence[Path],
    bounds: Bounds,
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run a program in the best sandbox that there is.

    Args:
        place: an empty directory, which the sandbox's file system is built at.
        read, write: paths that it needs beside those of the system; those in ``write`` become the sandbox user's.

    Raises:
        ProcessError: it exited with a code that is not in ``ok``.
        BoundsError: it went beyond ``bounds``.
    """
    way = reaching(best(), [*read, *write])
    paths = [*(f"--read={p}" for p in read), *(f"--write={p}" for p in write)]
    return run([*_entering(way, place), *paths, "--", *program], bounds=bounds, inherit=False, ok=ok)


def _entering(way: Way, place: Path) -> list[str]:
    return [sys.executable, "-I", "-S", enter.__file__, way, "--root", str(place)]
