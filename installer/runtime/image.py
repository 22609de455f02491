"""The image itself: made once for each recipe, kept in the builder's cache, linked into every bundle that asks for it."""

from __future__ import annotations

import ctypes
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import durable
from engine.blobs import Blobs
from engine.errors import ApplianceError, ResourceError
from engine.process import run
from installer import medium, sandbox
from installer.kinds import Work
from installer.runtime import tree
from installer.runtime.recipe import DIRECTORY, EPOCH, Recipe

BLOCK = "1M"  # measured against 128K on the CPU closure: 7 % smaller, made in the same time
LEVEL = "3"  # of zstd; higher ones cost minutes for a few per cent

UNPACKED = 6  # wheels, their files, bytecode and the image: the CPU closure needs 5.2 times its wheels for a while


@dataclass(frozen=True)
class Made:
    """An image. Sizes in bytes; ``files`` and ``unpacked`` count what is inside; ``tools`` are versions by name."""

    name: str
    path: str
    sha256: str
    size: int
    files: int
    unpacked: int
    interpreter: str
    tools: dict[str, str]


def write(recipes: Sequence[Recipe], work: Work, content: Path) -> tuple[Made, ...]:
    """Place every image below ``content/runtimes``, each with a JSON file that says what it was made from.

    Raises:
        ResourceError: a tool is missing, or the target's interpreter does not run here.
    """
    made = []
    if any(recipe.packages for recipe in recipes) and (way := sandbox.best()) != "namespaces":
        work.report.say(
            f"runtime: packages are unpacked and their interpreter runs {sandbox.WORDS[way]} (docs/runtime.md)"
        )
    for recipe in recipes:
        task = f"runtime {recipe.name}"
        work.report.begin(task)
        image = make(recipe, work.cache)
        work.report.end(task)
        work.cache.link(image.sha256, content.parent / recipe.path)
        about = {
            **asdict(image),
            "wheels": len(recipe.wheels),
            "packages": [f"{p.name} {p.version}" for p in recipe.packages],
            "compiler": [f"{p.name} {p.version}" for p in recipe.compiler],
        }
        durable.write(content / DIRECTORY / f"{recipe.name}.json", json.dumps(about, indent=1, sort_keys=True) + "\n")
        made.append(image)
    return tuple(made)


def make(recipe: Recipe, cache: Blobs) -> Made:
    """The image of a recipe, from the cache where it was made before."""
    versions = tools()
    note = cache.root / DIRECTORY / f"{recipe.key(versions)}.json"
    if known := _known(note, cache):
        return known
    with tempfile.TemporaryDirectory(prefix="runtime-", dir=_workplace(recipe, cache)) as place:
        scratch = Path(place)
        directory = tree.build(recipe, cache, scratch)
        sizes = [p.lstat().st_size for p in directory.rglob("*") if p.is_file() and not p.is_symlink()]
        image = scratch / "image.squashfs"
        squash(directory, image)
        sha256, size = cache.keep(image)
    interpreter = next(
        (f"{p.name} {p.version}" for p in recipe.packages if p.name.startswith("python")), "the node's own"
    )
    made = Made(recipe.name, recipe.path, sha256, size, len(sizes), sum(sizes), interpreter, versions)
    durable.write(note, json.dumps(asdict(made), indent=1) + "\n")
    return made


def _workplace(recipe: Recipe, cache: Blobs) -> Path:
    """Where the tree can be made: beside the cache, since files of gigabytes do not belong on a /tmp that may be memory; but
    a tree has links and permissions, and a cache on exFAT has neither.

    Raises:
        ResourceError: too little is free, or neither place keeps links and permissions.
    """
    cache.root.mkdir(parents=True, exist_ok=True)
    places = [medium.ask(cache.root), medium.ask(Path(tempfile.gettempdir()))]
    fit = next((m for m in places if m.symlinks and m.modes), None)
    if fit is None:
        raise ResourceError(
            f"a runtime image cannot be made on {places[0].kind}, which keeps no links or permissions",
            where=str(cache.root),
            remedy="Set TMPDIR to a directory on ext4, XFS or Btrfs, or choose such a place with --cache.",
        )
    fit.require_room(
        UNPACKED * sum(a.size for a in (*recipe.wheels, *recipe.compiler)),
        remedy=f"The runtime image {recipe.name} is made there: free space, or choose another place with --cache (or TMPDIR, "
        "where the cache is on a file system without links).",
    )
    return fit.place


def _known(note: Path, cache: Blobs) -> Made | None:
    try:
        known = Made(**json.loads(note.read_bytes()))
        return known if cache.has(known.sha256, known.size) else None
    except (OSError, ValueError, TypeError, ApplianceError):
        return None  # made anew


def squash(directory: Path, image: Path) -> None:
    """Pack a directory: the same files give the same bytes, whoever packs them and whenever.

    No fragments: then no block holds more than one file, and a file that did not change is the same bytes in the next image.
    """
    run(
        [
            "mksquashfs", directory, image, "-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", LEVEL,
            "-b", BLOCK, "-no-fragments", "-no-exports", "-no-xattrs", "-all-root", "-all-time", str(EPOCH), "-mkfs-time", str(EPOCH),
        ],
        inherit=False,  # with SOURCE_DATE_EPOCH set mksquashfs refuses to be told times
        package="squashfs-tools",
    )  # fmt: skip


def tools() -> dict[str, str]:
    """Versions of what decides about the bytes of an image.

    Raises:
        ResourceError: a tool is missing.
    """
    told = run(["mksquashfs", "-version"], ok=(0, 1), inherit=False, package="squashfs-tools").stdout
    version = re.search(r"version ([0-9][0-9.]*)", told)
    try:
        zstd = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise ResourceError("libzstd is not installed", remedy="Install it: apt-get install libzstd1") from error
    zstd.ZSTD_versionString.restype = ctypes.c_char_p
    return {"squashfs-tools": version[1] if version else "unknown", "zstd": zstd.ZSTD_versionString().decode()}
