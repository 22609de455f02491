"""Garbage of the depot: contents that no release lists. First listed, then deleted, and only what was listed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.errors import InputError
from installer.depot import Depot


@dataclass(frozen=True)
class Garbage:
    """What could go. ``size`` in bytes; ``plan`` names exactly this list."""

    contents: tuple[str, ...]
    partial: tuple[str, ...]
    size: int

    @property
    def plan(self) -> str:
        text = "".join(f"{name}\n" for name in (*self.contents, *self.partial))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(depot: Depot) -> Garbage:
    """Contents without a release, and the beginnings of files that stopped imports left."""
    used = {t.sha256 for release in depot.releases() for t in depot.targets(release)}
    idle = [p for p in sorted((depot.blobs.root / "sha256").glob("*/*")) if p.name not in used]
    partial = sorted((depot.blobs.root / "partial").glob("*"))
    return Garbage(
        tuple(p.name for p in idle), tuple(p.name for p in partial), sum(_size(p) for p in (*idle, *partial))
    )


def delete(depot: Depot, plan: str) -> Garbage:
    """Delete what ``plan`` lists. A stopped run is finished by listing and deleting again.

    Raises:
        InputError: the garbage is no longer what was listed.
        ResourceError: an import runs.
    """
    with depot.exclusive():
        garbage = find(depot)
        if garbage.plan != plan:
            raise InputError(
                f"the garbage is no longer what {plan} lists",
                where=str(depot.root),
                remedy="List it again with `appliance depot gc`, look, and delete that.",
            )
        for sha256 in garbage.contents:
            depot.blobs.path(sha256).unlink(missing_ok=True)
        for name in garbage.partial:
            (depot.blobs.root / "partial" / name).unlink(missing_ok=True)
        durable.sync_dir(depot.blobs.root)
    return garbage


def _size(path: Path) -> int:
    return path.stat().st_size
