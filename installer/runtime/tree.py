"""A wheel set and its interpreter as one directory that runs wherever it is mounted.

bin/python                     the interpreter, or a link to the node's own beside pyvenv.cfg
bin/…                          scripts; they find their interpreter beside them
lib/pythonX.Y/                 standard library, from the locked Debian packages
lib/pythonX.Y/site-packages/   the wheels, as uv installs them
compiler/                      where the definition asks for it (installer.runtime.compiler)
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
from collections.abc import Sequence
from pathlib import Path

from engine.blobs import Blobs
from engine.bounds import Bounds, BoundsError, used
from engine.errors import ApplianceError, ResourceError, TrustError
from engine.process import run
from installer import sandbox, unpack, wheelarchive
from installer.kinds import overwrites, uvresolve, wheels
from installer.lockfile import Artifact
from installer.runtime import compiler, packages
from installer.runtime.recipe import Recipe

# A script must not name a path: the directory is mounted where nodes want it. sh reads the first lines, Python skips them as a text.
FINDS_PYTHON = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""
BYTECODE = 8  # bytes of bytecode that may come of a byte in the library; honest ones are about as long as their source
COMPILE_MEMORY, COMPILE_S = 2 << 30, 3600.0  # bytes of each process, seconds
UV_MEMORY, UV_S = 4 << 30, 3600.0
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
    if recipe.compiler:
        compiler.lay_out(_unpacked(recipe.compiler, cache, scratch / "compiler"), tree)
        shutil.rmtree(scratch / "compiler")
    _settle(tree)
    if recipe.packages:
        _compile(recipe, tree, scratch)
    return tree


def _wheels(recipe: Recipe, cache: Blobs, scratch: Path, tree: Path) -> None:
    """As uv installs into a prefix; every hash is compared before a wheel is used."""
    folder, unpacked = scratch / "wheels", scratch / "unpacked"
    folder.mkdir()
    total = 0
    for artifact in recipe.wheels:
        name = artifact.path.rsplit("/", 1)[-1]
        total += wheelarchive.require_bounded(cache.path(artifact.sha256), name)
        (folder / name).symlink_to(cache.path(artifact.sha256))
    # Cache and tree are one file each with two names. Blocks of small files are larger than they are, and uv writes scripts.
    bounds = Bounds(
        memory=UV_MEMORY, file=total + unpack.FLOOR, directory=scratch, disk=3 * total + unpack.FLOOR, time_s=UV_S
    )
    target = recipe.target
    release = uvresolve.python_release(target, recipe.packages, image=bool(recipe.packages))
    minor = min(uvresolve.GLIBC_MINOR[target.os], uvresolve.UV_NEWEST_MINOR)
    # All at once, and then again what must not depend on the order in which uv got to it.
    for number, some in enumerate([recipe.wheels, *([one] for one in overwrites.last(recipe.wheels, cache))]):
        requirements = folder / f"{number:03}.txt"
        requirements.write_text(wheels.requirements(some))
        _uv(
            [
                uvresolve.uv_binary(), "pip", "install", "--quiet", "--no-config", "--offline", "--no-index", "--no-deps",
                "--no-python-downloads", "--require-hashes", "--link-mode=hardlink", "--find-links", folder,
                "--python", sys.executable, "--python-version", release, *(["--reinstall"] if number else []),
                "--python-platform", f"{target.arch}-manylinux_2_{minor}", "--prefix", tree, "--requirements", requirements,
            ],
            unpacked, bounds, recipe.name,
        )  # fmt: skip
    shutil.rmtree(unpacked)
    (tree / ".lock").unlink(missing_ok=True)
    ours = tree / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    theirs = tree / "lib" / f"python{target.python}"
    if ours.exists() and ours != theirs:  # uv names the directory after the interpreter that it was given
        ours.rename(theirs)
    _relocate(tree, theirs / "site-packages")


def _uv(argv: Sequence[str | Path], cache: Path, bounds: Bounds, name: str) -> None:
    try:
        run(argv, env={"UV_CACHE_DIR": str(cache)}, inherit=False, bounds=bounds)
    except BoundsError as error:
        if error.which not in ("disk", "file", "memory"):
            raise
        raise TrustError(
            f"a wheel unpacks to more than it lists: {error.what}", where=f"wheels: {name}",
            remedy="Do not use it: lock again from a sound source.",
        ) from error  # fmt: skip


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
        for name, digest, size in _rows(record):
            path = Path(os.path.normpath(site / name))
            if not path.is_relative_to(tree):
                raise TrustError(
                    f"its list of files names {name[:160]!a}, which is outside of what it installs",
                    where=record.parent.name, remedy="Do not use this wheel: lock again from a sound source.",
                )  # fmt: skip
            if name.rsplit("/", 1)[-1] in TEMPORARY:
                path.unlink(missing_ok=True)
                continue
            if name.startswith("../../../bin/") and _is_file(path):
                data = path.read_bytes()
                hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                rows.append((name, f"sha256={hashed}", str(len(data))))
            else:
                rows.append((name, digest, size))
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(sorted(rows))
        record.unlink()
        record.write_text(out.getvalue())


def _rows(record: Path) -> list[list[str]]:
    """A wheel's list of its files: name, hash and size each."""
    try:
        rows = [row for row in csv.reader(record.read_text().splitlines()) if row]
    except (ValueError, csv.Error) as error:
        rows, why = [[]], str(error)
    else:
        why = "a line does not have three values"
    if any(len(row) != 3 for row in rows):
        raise TrustError(
            f"its list of files cannot be read: {why}", where=record.parent.name,
            remedy="Do not use this wheel: lock again from a sound source.",
        )  # fmt: skip
    return rows


def _interpreter(recipe: Recipe, cache: Blobs, scratch: Path, tree: Path) -> None:
    """The interpreter and its library, out of packages whose hashes the archive's owner signed.

    Raises:
        TrustError: a package is damaged or too large, or writes through a link of its own or of another.
    """
    python, unpacked = f"python{recipe.target.python}", scratch / "packages"
    roots = _unpacked(recipe.packages, cache, unpacked)
    found = [root / "usr/bin" / python for root in roots if _is_file(root / "usr/bin" / python)]
    if not found:
        raise TrustError(
            f"no package holds /usr/bin/{python} as a file",
            where=f"wheels: {recipe.name}: runtime",
            remedy=packages.REMEDY,
        )
    packages.copy(found[0], tree / "bin" / "python")
    (tree / "bin" / "python").chmod(0o755)
    (tree / "bin" / python).unlink(missing_ok=True)
    (tree / "bin" / python).symlink_to("python")
    for below in (f"lib/{python}", f"include/{python}"):
        for root in roots:
            if (root / "usr" / below).is_dir() and not (root / "usr" / below).is_symlink():
                _merge(root / "usr" / below, tree / below)
    own = tree / "lib" / python / "dist-packages"
    own.mkdir(exist_ok=True)
    (own / "runtime.pth").write_text(PTH % recipe.target.python)
    shutil.rmtree(unpacked)


def _unpacked(some: Sequence[Artifact], cache: Blobs, place: Path) -> Sequence[Path]:
    place.mkdir()
    return packages.unpack_each(some, [cache.path(package.sha256) for package in some], place)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _merge(source: Path, destination: Path) -> None:
    """Copy files and links that stay inside; what points elsewhere belongs to the system it came from."""
    for here, directories, files in os.walk(source):
        place = destination / Path(here).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in sorted(files + [d for d in directories if (Path(here) / d).is_symlink()]):
            path = Path(here) / name
            if not path.is_symlink():
                packages.copy(path, place / name)
            elif len((target := path.readlink()).parts) == 1 and str(target) != "..":
                (place / name).unlink(missing_ok=True)
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


def _compile(recipe: Recipe, tree: Path, scratch: Path) -> None:
    """Bytecode for every module: the image is read-only, and without it each start compiles again.

    Unchecked, because nothing in the image can change; from its hash, because times are all the same. The package's own interpreter makes
    it, in a sandbox that reads the tree and writes elsewhere; what it wrote is taken over file by file.
    """
    tree, scratch = tree.resolve(), scratch.resolve()  # inside, there are no links that lead here
    made, place = scratch / "bytecode", scratch / "sandbox"
    made.mkdir()
    place.mkdir()
    library = tree / "lib" / f"python{recipe.target.python}"
    limit = BYTECODE * used(library) + unpack.FLOOR
    bounds = Bounds(memory=COMPILE_MEMORY, file=unpack.FLOOR, directory=made, disk=limit, time_s=COMPILE_S)
    # -S: no .pth file of a wheel runs on the builder. -B: what compileall itself imports would be compiled with its time
    # first, and then taken for done.
    python: list[str | Path] = [tree / "bin" / "python", "-I", "-S", "-B", "-X", f"pycache_prefix={made}"]
    try:
        sandbox.call([*python, "-c", "pass"], place=place, read=[tree], write=[made], bounds=bounds)
    except (ApplianceError, OSError) as error:
        raise ResourceError(
            f"the target's interpreter does not run on this builder ({error}), so nothing can be compiled for it",
            where=f"wheels: {recipe.name}: runtime",
            remedy=f"Build on {recipe.target.os} or newer with a processor of the same kind, or set runtime: node.",
        ) from error
    workers = str(os.cpu_count() or 1)
    # 1: some packages carry files that are no Python of this version, such as templates; they stay as they are.
    sandbox.call(
        [*python, "-m", "compileall", "-qq", "-j", workers, "--invalidation-mode", "unchecked-hash",
         "-s", tree, "-p", "runtime", library],
        place=place, read=[tree], write=[made], bounds=bounds, ok=(0, 1),
    )  # fmt: skip
    _take_bytecode(library, made, f"cpython-{recipe.target.python.replace('.', '')}")
    shutil.rmtree(made)


def _take_bytecode(library: Path, made: Path, tag: str) -> None:
    """Put what was compiled beside its sources: only regular files of the expected names, whatever else was written there.

    ``made`` mirrors absolute paths, as Python's ``pycache_prefix`` does. Who wrote there may have left links, so none is followed.
    """
    root = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for here, _, files in os.walk(library):
            for name in (f for f in files if f.endswith(".py")):
                compiled = f"{name.removesuffix('.py')}.{tag}.pyc"
                cache = Path(here) / "__pycache__"
                try:
                    found = packages.open_inside(root, f"{here.lstrip('/')}/{compiled}")
                except OSError:
                    continue  # it is no Python of this version
                with os.fdopen(found, "rb") as data:
                    cache.mkdir(exist_ok=True)
                    cache.chmod(0o755)
                    (cache / compiled).unlink(missing_ok=True)
                    with (cache / compiled).open("xb") as file:
                        shutil.copyfileobj(data, file, unpack.BUFFER)
                    (cache / compiled).chmod(0o644)
    finally:
        os.close(root)
