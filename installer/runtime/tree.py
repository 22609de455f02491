"""A wheel set and its interpreter as one directory that runs wherever it is mounted.

bin/python                     the interpreter, or a link to the node's own beside pyvenv.cfg
bin/…                          scripts; they find their interpreter beside them
lib/pythonX.Y/                 standard library, from the locked Debian packages
lib/pythonX.Y/site-packages/   the wheels, as uv installs them
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import stat
import sys
from pathlib import Path

from engine.blobs import Blobs
from engine.errors import ApplianceError, ResourceError
from engine.process import run
from installer.kinds import overwrites, uvresolve, wheels
from installer.runtime.recipe import Recipe

# A script must not name a path: the directory is mounted where nodes want it. sh reads the first lines, Python skips them as a text.
FINDS_PYTHON = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""
TEMPORARY = ("uv_cache.json",)  # what uv notes about its cache, with times
# Debian's interpreter looks for packages of its own; this adds ours, with their .pth files.
PTH = 'import site, sys; site.addsitedir(f"{sys.prefix}/lib/python%s/site-packages")\n'


def build(recipe: Recipe, cache: Blobs, scratch: Path) -> Path:
    """Make the directory below ``scratch`` and return it. Its bytes follow from the recipe alone.

    Raises:
        ApplianceError: an artifact is not in the cache, or a tool failed.
        ResourceError: the target's interpreter does not run on this builder, so nothing can be compiled.
    """
    tree = scratch / "tree"
    (tree / "bin").mkdir(parents=True)
    _wheels(recipe, cache, scratch, tree)
    if recipe.packages:
        _interpreter(recipe, cache, scratch, tree)
    else:
        (tree / "pyvenv.cfg").write_text(
            f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {recipe.target.python}\n"
        )
        (tree / "bin" / "python").symlink_to(f"/usr/bin/python{recipe.target.python}")
    (tree / "bin" / "python3").symlink_to("python")
    _settle(tree)
    if recipe.packages:
        _compile(recipe, tree)
    return tree


def _wheels(recipe: Recipe, cache: Blobs, scratch: Path, tree: Path) -> None:
    """As uv installs into a prefix; every hash is compared before a wheel is used."""
    folder, unpacked = scratch / "wheels", scratch / "unpacked"
    folder.mkdir()
    for artifact in recipe.wheels:
        (folder / artifact.path.rsplit("/", 1)[-1]).symlink_to(cache.path(artifact.sha256))
    target = recipe.target
    release = uvresolve.python_release(target, recipe.packages, image=bool(recipe.packages))
    minor = min(uvresolve.GLIBC_MINOR[target.os], uvresolve.UV_NEWEST_MINOR)
    # All at once, and then again what must not depend on the order in which uv got to it.
    for number, some in enumerate([recipe.wheels, *([one] for one in overwrites.last(recipe.wheels, cache))]):
        requirements = folder / f"{number:03}.txt"
        requirements.write_text(wheels.requirements(some))
        run(
            [
                uvresolve.uv_binary(), "pip", "install", "--quiet", "--no-config", "--offline", "--no-index", "--no-deps",
                "--no-python-downloads", "--require-hashes", "--link-mode=hardlink", "--find-links", folder,
                "--python", sys.executable, "--python-version", release, *(["--reinstall"] if number else []),
                "--python-platform", f"{target.arch}-manylinux_2_{minor}", "--prefix", tree, "--requirements", requirements,
            ],
            env={"UV_CACHE_DIR": str(unpacked)},
            inherit=False,
        )  # fmt: skip
    shutil.rmtree(unpacked)
    (tree / ".lock").unlink(missing_ok=True)
    ours = tree / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    theirs = tree / "lib" / f"python{target.python}"
    if ours.exists() and ours != theirs:  # uv names the directory after the interpreter that it was given
        ours.rename(theirs)
    _relocate(tree, theirs / "site-packages")


def _relocate(tree: Path, site: Path) -> None:
    """Take the builder's interpreter out of scripts, and make every RECORD say what is there now."""
    for script in sorted((tree / "bin").iterdir()):
        data = script.read_bytes()
        first, newline, rest = data.partition(b"\n")
        if newline and first.startswith(b"#!") and b"python" in first:
            mode = script.stat().st_mode
            script.unlink()  # not written over: the file may be a second name of another
            script.write_bytes(FINDS_PYTHON + rest)
            script.chmod(mode)
    for record in sorted(site.glob("*.dist-info/RECORD")):
        rows = []
        for name, digest, size in csv.reader(record.read_text().splitlines()):
            if name.rsplit("/", 1)[-1] in TEMPORARY:
                (site / name).unlink(missing_ok=True)
                continue
            if name.startswith("../../../bin/"):
                data = (site / name).read_bytes()
                hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                rows.append((name, f"sha256={hashed}", str(len(data))))
            else:
                rows.append((name, digest, size))
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(sorted(rows))
        record.unlink()
        record.write_text(out.getvalue())


def _interpreter(recipe: Recipe, cache: Blobs, scratch: Path, tree: Path) -> None:
    """The interpreter and its library, out of packages whose hashes the archive's owner signed."""
    python, unpacked = f"python{recipe.target.python}", scratch / "packages"
    for package in recipe.packages:
        run(["dpkg-deb", "--extract", cache.path(package.sha256), unpacked], inherit=False, package="dpkg")
    shutil.copyfile(unpacked / "usr/bin" / python, tree / "bin" / "python")
    (tree / "bin" / "python").chmod(0o755)
    (tree / "bin" / python).symlink_to("python")
    for below in (f"lib/{python}", f"include/{python}"):
        if (unpacked / "usr" / below).is_dir():
            _merge(unpacked / "usr" / below, tree / below)
    packages = tree / "lib" / python / "dist-packages"
    packages.mkdir(exist_ok=True)
    (packages / "runtime.pth").write_text(PTH % recipe.target.python)
    shutil.rmtree(unpacked)


def _merge(source: Path, destination: Path) -> None:
    """Copy files and links that stay inside; what points elsewhere belongs to the system it came from."""
    for here, directories, files in os.walk(source):
        place = destination / Path(here).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(files + [d for d in directories if (Path(here) / d).is_symlink()]):
            path = Path(here) / name
            if not path.is_symlink():
                shutil.copy2(path, place / name)
            elif len((target := path.readlink()).parts) == 1:
                (place / name).symlink_to(target)


def _settle(tree: Path) -> None:
    """Modes that do not depend on who built: everybody reads, nobody writes, set-id bits are gone."""
    for path in sorted(tree.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.chmod(0o755)
        elif stat.S_ISREG(mode):
            path.chmod(0o755 if mode & 0o111 else 0o644)
    tree.chmod(0o755)


def _compile(recipe: Recipe, tree: Path) -> None:
    """Bytecode for every module: the image is read-only, and without it each start compiles again.

    Unchecked, because nothing in the image can change; from its hash, because times are all the same.
    """
    # -S: no .pth file of a wheel runs on the builder. -B: what compileall itself imports would be compiled with its time
    # first, and then taken for done.
    python: list[str | Path] = [tree / "bin" / "python", "-I", "-S", "-B"]
    try:
        run([*python, "-c", "pass"], inherit=False)
    except (ApplianceError, OSError) as error:
        raise ResourceError(
            f"the target's interpreter does not run on this builder ({error}), so nothing can be compiled for it",
            where=f"wheels: {recipe.name}: runtime",
            remedy=f"Build on {recipe.target.os} or newer with a processor of the same kind, or set runtime: node.",
        ) from error
    workers = str(os.cpu_count() or 1)
    # 1: some packages carry files that are no Python of this version, such as templates; they stay as they are.
    run(
        [*python, "-m", "compileall", "-qq", "-j", workers, "--invalidation-mode", "unchecked-hash",
         "-s", tree, "-p", "runtime", tree / "lib" / f"python{recipe.target.python}"],
        ok=(0, 1), inherit=False,
    )  # fmt: skip
    for cache in tree.rglob("__pycache__"):
        cache.chmod(0o755)
    for code in tree.rglob("*.pyc"):
        code.chmod(0o644)
