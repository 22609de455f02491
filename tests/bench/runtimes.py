"""What a node waits for its runtime: mounting the verified image against installing the same wheels."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.blobs import Blobs
from installer import definition, lockfile
from installer.cli.options import default_cache
from installer.kinds import uvresolve, wheels
from installer.runtime import image
from installer.runtime.recipe import Recipe, recipes
from tests.bench.measure import Claim, Pair, Run, call, forget, seconds
from tests.demo import TREE

INSTALL = "`uv pip install` of the same wheels into an empty environment"
CLAIMS = (
    Claim("runtime-image", "s", INSTALL, 0.15),
    Claim("runtime-switch", "s", INSTALL, 0.02),
    Claim("runtime-first-import", "s", "the same import from the unpacked directory, nothing in the page cache", 1.05),
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """The demo's closure (vLLM for CPU); `./run demo` or `appliance build bundle bundles/demo.yml` fills the cache first."""
    cache = Blobs(default_cache())
    parsed = definition.load(TREE / "bundles/demo.yml")
    (recipe,) = recipes(parsed, lockfile.load(TREE / "bundles/demo.lock.yml", parsed))
    made = image.make(recipe, cache)
    squashfs = cache.path(made.sha256)
    point = work / "mounted"
    point.mkdir()
    install = _install(recipe, cache, work)

    yield Pair("runtime-image", _verified_mount(squashfs, made.sha256, point), install)
    yield Pair("runtime-switch", _switch(squashfs, point), install)
    if only in "runtime-first-import":
        unpacked = work / "unpacked"
        call(["unsquashfs", "-quiet", "-no-progress", "-dest", unpacked, squashfs])
        yield Pair("runtime-first-import", _import_from_image(squashfs, point), _import_from(unpacked), warm=False)


def _verified_mount(squashfs: Path, sha256: str, point: Path) -> Run:
    """As the role does it: hash, compare, mount; then the interpreter answers. The image was just written, as after a fetch."""

    def action() -> None:
        with squashfs.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
        _mount(squashfs, point)
        call([point / "bin/python", "-c", "pass"])

    return _then(seconds(action), lambda: call(["umount", point]))


def _switch(squashfs: Path, point: Path) -> Run:
    """One runtime goes and another comes; both were verified when they arrived."""

    def action() -> None:
        call(["umount", point])
        _mount(squashfs, point)
        call([point / "bin/python", "-c", "pass"])

    timed = _then(seconds(action), lambda: call(["umount", point]))

    def run() -> float:
        _mount(squashfs, point)
        return timed()

    return run


def _install(recipe: Recipe, cache: Blobs, work: Path) -> Run:
    """The wheels as a node has them, and the arguments of the role's wheel path without its bytecode, which the image brings."""
    folder = work / "wheels"
    folder.mkdir()
    for artifact in recipe.wheels:
        cache.link(artifact.sha256, folder / artifact.path.rsplit("/", 1)[-1])
    (folder / "requirements.txt").write_text(wheels.requirements(recipe.wheels))
    environment, unpacked = work / "environment", work / "environment.unpacked"

    def action() -> None:
        call([uvresolve.uv_binary(), "venv", "--quiet", "--no-config", "--python", "/usr/bin/python3", environment])
        call(
            [
                uvresolve.uv_binary(), "pip", "install", "--quiet", "--no-config", "--offline", "--no-index", "--no-deps",
                "--require-hashes", "--link-mode=hardlink", "--find-links", folder,
                "--python", environment / "bin/python", "--requirements", folder / "requirements.txt",
            ],
            env={"UV_CACHE_DIR": str(unpacked), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        call([environment / "bin/python", "-c", "pass"])

    def clean() -> None:
        shutil.rmtree(environment)
        shutil.rmtree(unpacked)

    return _then(seconds(action), clean)


def _import_from_image(squashfs: Path, point: Path) -> Run:
    def run() -> float:
        forget(squashfs.parent)
        _mount(squashfs, point)
        try:
            return _import_torch(point)
        finally:
            call(["umount", point])

    return run


def _import_from(unpacked: Path) -> Run:
    def run() -> float:
        forget(unpacked)
        return _import_torch(unpacked)

    return run


def _import_torch(runtime: Path) -> float:
    return seconds(lambda: call([runtime / "bin/python", "-B", "-c", "import torch"]))()


def _mount(squashfs: Path, point: Path) -> None:
    subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro,nodev,nosuid", squashfs, point], check=True)


def _then(run: Run, after: Callable[[], None]) -> Run:
    def both() -> float:
        value = run()
        after()
        return value

    return both
