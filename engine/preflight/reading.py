"""Small files of the kernel and the system, read with a bound and without a fuss when they are not there."""

from __future__ import annotations

from pathlib import Path

LIMIT = 1 << 20  # bytes


def data(path: str | Path, limit: int = LIMIT) -> bytes | None:
    """The first ``limit`` bytes; None when there is nothing to read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(limit)
    except OSError:
        return None


def text(path: str | Path, limit: int = LIMIT) -> str:
    """The same as text without blanks around it; empty when there is nothing to read."""
    return (data(path, limit) or b"").decode(errors="replace").strip()


def number(path: str | Path, base: int = 10, missing: int = 0) -> int:
    """The whole number in a file; ``missing`` when there is none."""
    try:
        return int(text(path, 64), base)
    except ValueError:
        return missing
