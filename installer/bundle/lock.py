"""`appliance lock`: resolve every kind of a definition."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import InputError
from installer import lockfile
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


def resolve(work: Work) -> Lock:
    """Ask every kind what the definition means today.

    Raises:
        InputError: something does not exist or cannot be satisfied.
        UpstreamError: a source does not answer.
    """
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
    lock = lockfile.make(work.definition, artifacts, surroundings)
    recipe.recipes(work.definition, lock)  # an image that lacks its interpreter shows now, not when it is built
    return lock


def changes(old: Lock | None, new: Lock) -> dict[str, list[str]]:
    """What a reviewer wants to know first: added, removed and changed paths."""
    before = {a.path: a.sha256 for a in old.artifacts} if old else {}
    after = {a.path: a.sha256 for a in new.artifacts}
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(p for p in after.keys() & before.keys() if after[p] != before[p]),
    }
