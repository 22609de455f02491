"""`appliance lock`: resolve every kind of a definition."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import InputError
from installer import lockfile
from installer.bundle import acceptable
from installer.kinds import KindModule, Work, debs, files, images, models, own, wheels
from installer.lockfile import Artifact, Kind, Lock
from installer.runtime import recipe

# One line a kind. The product itself comes first: a bundle without it could not be installed.
KINDS: dict[Kind, KindModule] = {
    "installer": own,
    "wheels": wheels,
    "debs": debs,
    "images": images,
    "models": models,
    "files": files,
}
# What a lock holds beside its artifacts.
PARTS = ("name", "version", "definition_sha256", "network", "product")


def resolve(work: Work) -> Lock:
    """Ask every kind what the definition means today.

    Raises:
        InputError: something does not exist or cannot be satisfied.
        UpstreamError: a source does not answer.
    """
    models.require_paths(work)  # first: wheels take minutes
    artifacts: list[Artifact] = []
    # Packages first: the interpreter among them decides which wheels a runtime image needs.
    for name, kind in sorted(KINDS.items(), key=lambda k: k[0] != "debs"):
        work.report.begin(f"lock {name}")
        found = kind.resolve(work)
        artifacts += found
        if name == "debs":
            work = replace(work, packages=tuple(found))
        work.report.end(f"lock {name}")
    if not artifacts:
        raise InputError("the definition holds nothing", remedy="Add wheels, debs, images, models or files.")
    surroundings = lockfile.Surroundings.model_validate(work.network.record())
    lock = lockfile.make(work.definition, artifacts, surroundings, own.origin())
    acceptable.require_paths([f"{acceptable.CONTENT}{a.path}" for a in lock.artifacts])
    recipe.recipes(work.definition, lock)  # an image that lacks its interpreter shows now, not when it is built
    return lock


def changes(old: Lock | None, new: Lock) -> dict[str, list[str]]:
    """What a reviewer wants to know first, each difference once: paths that came, went or have other bytes, paths whose bytes come from
    elsewhere or are described differently, and the other parts of the lock."""
    before = {a.path: a for a in old.artifacts} if old else {}
    after = {a.path: a for a in new.artifacts}
    same = sorted(p for p in after.keys() & before.keys() if after[p].sha256 == before[p].sha256)
    moved = [p for p in same if after[p].source != before[p].source]
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted((after.keys() & before.keys()) - set(same)),
        "sources": moved,
        "details": sorted(p for p in set(same) - set(moved) if after[p] != before[p]),
        "parts": [n for n in PARTS if old and getattr(old, n) != getattr(new, n)],
    }
