"""The states that a node keeps: which there are, and dropping old ones with what only they need. Standard library alone."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.generation import tree
from engine.generation.store import Store

RELEASES = ("opt/appliance/releases", "var/lib/appliance/views")
BLOBS = "var/lib/appliance/blobs"
NAME_CHARACTERS = 64  # of a file of content: its SHA-256

Inode = tuple[int, int]


def listed(store: Store) -> dict[str, Any]:
    """All generations that are kept; ``differs`` are the files that are not as in the current one."""
    current = store.current()
    known = [store.load(n) for n in store.numbers()]
    now = current.entries if current else {}
    return {
        "current": current.number if current else 0,
        "switching": store.begun(),
        "generations": [
            {
                "number": g.number, "release": g.release, "made": g.made, "digest": g.digest,
                "differs": [f"/{path}" for path in tree.differences(now, g.entries)],
            }
            for g in known
        ],
    }  # fmt: skip


def release_in_use(root: Path) -> str:
    """Name of the release that the node runs; empty before the first."""
    link = root / tree.CURRENT
    return link.readlink().name if link.is_symlink() else ""


def beyond(store: Store, keep: int) -> tuple[int, ...]:
    """All but the current generation and the newest others, so that ``keep`` stay. None where no generation is the current one.

    Raises:
        InputError: ``keep`` is less than 1; a node keeps at least what it runs.
    """
    if keep < 1:
        raise InputError(f"{keep} states cannot be kept", remedy="Give 1 or more: the state that runs is one of them.")
    current = store.current()
    if current is None:
        return ()
    others = [n for n in store.numbers() if n != current.number]
    return tuple(others[: max(0, len(others) - keep + 1)])


def drop(store: Store, gone: Collection[int], *, check: bool = False) -> dict[str, Any]:
    """Remove generations, and what no other needs: their releases' environments, views, and content that nothing shows any more.

    The records go first, content before the views that show it: whatever a killed one left, the next one finds by the views.

    Args:
        check: remove nothing, and say what would go.

    Returns:
        generations: their numbers. removed: directories. freed_bytes: what this gives back to the disks.
    """
    needed = {store.load(n).release for n in store.numbers() if n not in gone} | {release_in_use(store.root)}
    places = [
        place
        for directory in RELEASES
        for place in sorted((store.root / directory).glob("*"))
        if place.name not in needed and not place.name.startswith(".") and not place.is_symlink()
    ]
    links, sizes = _links(places)
    blobs = [(p, found) for p, found in _blobs(store.root) if places and _shown_elsewhere(found, links) == 0]
    for _, found in blobs:
        links[_inode(found)] += 1
        sizes[_inode(found)] = (found.st_nlink, found.st_size)
    freed = sum(size for inode, (count, size) in sizes.items() if links[inode] == count)
    if not check:
        store.forget(gone)
        for path, _ in blobs:
            path.unlink()
        for place in places:
            shutil.rmtree(place)
    return {"generations": list(gone), "removed": [str(p) for p in places], "freed_bytes": freed}


def _links(places: Iterable[Path]) -> tuple[Counter[Inode], dict[Inode, tuple[int, int]]]:
    """How often each file is linked below ``places``; and how often anywhere, with its size in bytes."""
    links, sizes = Counter[Inode](), dict[Inode, tuple[int, int]]()
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                found = Path(directory, name).lstat()
                links[_inode(found)] += 1
                sizes[_inode(found)] = (found.st_nlink, found.st_size)
    return links, sizes


def _blobs(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in (root / BLOBS).rglob("*"):
        if len(path.name) == NAME_CHARACTERS and path.is_file() and not path.is_symlink():
            yield path, path.stat()


def _shown_elsewhere(found: os.stat_result, links: Counter[Inode]) -> int:
    """Links of a file of content beside its own and those that go."""
    return found.st_nlink - 1 - links[_inode(found)]


def _inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino
