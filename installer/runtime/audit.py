"""Whether an image is what the wheels and packages beside it are: both are laid out as files, and the files compared."""

from __future__ import annotations

import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine.blobs import Blobs, hash_file
from engine.bounds import Bounds, BoundsError, used
from engine.copying import copy_target
from engine.errors import TrustError
from engine.process import ProcessError, run
from engine.report import Report
from installer import unpack
from installer.definition import Definition
from installer.evidence import contents
from installer.runtime import tree
from installer.runtime.recipe import Recipe, recipes

MEMORY, TIME_S = 4 << 30, 3600.0  # of unsquashfs: bytes, seconds


@dataclass(frozen=True)
class Difference:
    """A path that the image and its wheels do not agree on, and how."""

    path: str
    what: str


@dataclass(frozen=True)
class Audit:
    """The outcome for one image of ``size`` bytes. ``files`` counts what was compared, links and directories included."""

    name: str
    files: int
    size: int
    differences: tuple[Difference, ...]

    @property
    def good(self) -> bool:
        return not self.differences


def of_bundle(bundle: Path, pinned_root: bytes, scratch: Path, report: Report) -> list[Audit]:
    """Audit every image of a bundle. What is compared is copied out of it first, hashed on its way.

    Raises:
        TrustError: the metadata, or a file that is needed, is not as signed.
    """
    told = contents.read(bundle, pinned_root)
    found = []
    scratch.mkdir(parents=True, exist_ok=True)
    for recipe in recipes(Definition.model_validate(told.definition), told.lock):
        with tempfile.TemporaryDirectory(prefix="audit-", dir=scratch) as place:
            cache = Blobs(Path(place) / "cache")
            needed = [recipe.path, *(f"content/{a.path}" for a in (*recipe.wheels, *recipe.packages, *recipe.compiler))]
            report.begin(f"audit {recipe.name}")
            for target in {t.sha256: t for t in map(told.trusted.targets.__getitem__, needed)}.values():
                cache.path(target.sha256).parent.mkdir(parents=True, exist_ok=True)
                copy_target(bundle, target, cache.path(target.sha256))
            image = cache.path(told.trusted.targets[recipe.path].sha256)
            found.append(audit(recipe, image, cache, Path(place)))
            report.end(f"audit {recipe.name}")
    return found


def audit(recipe: Recipe, image: Path, cache: Blobs, scratch: Path) -> Audit:
    """Make the tree again from the recipe and compare every file of the image with it, bytecode included.

    Args:
        image: the image; its hash was compared with the signed one before, for what follows parses it.
        cache: holds the recipe's wheels and packages, each hashed on its way in.
        scratch: an existing directory with room for two unpacked runtimes.

    Raises:
        TrustError: the image cannot be read.
        ResourceError: a tool is missing, or the target's interpreter does not run here.
    """
    with tempfile.TemporaryDirectory(prefix="audit-", dir=scratch) as place:
        ours, theirs = Path(place) / "made", Path(place) / "image"
        ours.mkdir()
        expected = tree.build(recipe, cache, ours)
        room = used(ours) + unpack.FLOOR  # an image that holds much more cannot be the same files
        bounds = Bounds(memory=MEMORY, file=room, directory=Path(place), disk=2 * room, time_s=TIME_S)
        try:
            run(
                ["unsquashfs", "-no-progress", "-quiet", "-dest", theirs, image],
                inherit=False,
                package="squashfs-tools",
                bounds=bounds,
            )
        except (ProcessError, BoundsError) as error:
            said = error.stderr[-300:] if isinstance(error, ProcessError) else error.what
            raise TrustError(f"not a readable image: {said}", where=str(image), remedy="Do not use it.") from error
        files, differences = compare(expected, theirs)
        return Audit(recipe.name, files, image.stat().st_size, differences)


def compare(expected: Path, found: Path) -> tuple[int, tuple[Difference, ...]]:
    """Two trees, entry by entry: type, mode, link target, and SHA-256 of files. Returns how many entries, and what differs."""
    one, two = _entries(expected), _entries(found)
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        differ = list(workers.map(lambda path: _difference(path, expected, found, one, two), sorted({*one, *two})))
    return len({*one, *two}), tuple(d for d in differ if d)


def _entries(root: Path) -> dict[str, str]:
    """What every path below ``root`` is, as text that can be compared and shown."""
    found = {}
    for here, directories, files in os.walk(root):
        for entry in (*directories, *files):
            path = Path(here) / entry
            mode = path.lstat().st_mode
            about = f"link to {path.readlink()}" if stat.S_ISLNK(mode) else stat.filemode(mode)
            found[str(path.relative_to(root))] = about
    return found


def _difference(path: str, expected: Path, found: Path, one: dict[str, str], two: dict[str, str]) -> Difference | None:
    if path not in two:
        return Difference(path, "is missing in the image")
    if path not in one:
        return Difference(path, "is in the image and in no wheel or package")
    if one[path] != two[path]:
        return Difference(path, f"is {two[path]} in the image, {one[path]} in its wheel or package")
    if one[path].startswith("-") and hash_file(expected / path) != hash_file(found / path):
        return Difference(path, "has other bytes in the image than in its wheel or package")
    return None
