"""Bundles to measure with: large ones are written piece by piece, never held in memory."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bundles import Bundle, signed

PIECE = 16 << 20  # bytes


def bundle(where: Path, files: int, size: int) -> Bundle:
    """A signed bundle of ``files`` files of ``size`` bytes each, a hundred to a directory."""
    noise = os.urandom(min(PIECE, size))
    for i in range(files):
        path = where / "demo-1.0.0/content/models" / f"m{i // 100}" / f"part-{i:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(f"{i:<16}".encode()[:size])  # every file is another
            while left := size - file.tell():
                file.write(noise[:left])
    return signed(where)


def content(of: Bundle) -> list[Path]:
    """The large files of a bundle."""
    return sorted((of.path / "content").rglob("*.bin"))


def root(of: Bundle, where: Path) -> Path:
    """The pinned root as a file."""
    path = where / "root.json"
    path.write_bytes(of.root)
    return path
