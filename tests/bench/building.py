"""How fast a bundle is built: against a plain download of the same wheels, and again after one input changed.

With the environment variable APPLIANCE_BENCH_DEFINITION naming a definition (bundles/gpu-ubuntu-24.04.yml for the claims), its wheels
are the ones; else some of 100 MB together, whose times are mostly what any build does.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from engine.blobs import Blobs
from installer import lockfile
from tests.bench.measure import Claim, Pair, call, seconds
from tests.demo import TREE

ROUNDS = 2 if os.environ.get("APPLIANCE_BENCH_DEFINITION") else 3  # a download of 4 GB takes minutes
INPUTS, SIZE = 200, 100_000  # files of the definition, and bytes of each; wheels come on top
CLAIMS = (
    Claim("build-cold", "s", "pip download of the same wheels, then sha256sum", 1.15),
    Claim("build-one-changed-of-200", "s", "the cold build", 0.05),
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """The wheels come from wherever this machine's pip configuration says, on both sides."""
    if not any(only in c.name for c in CLAIMS):
        return
    bench = _Builder(work)
    bench.lock()
    yield Pair("build-cold", bench.cold, bench.pip, rounds=ROUNDS, warm=False)
    bench.cold()
    yield Pair("build-one-changed-of-200", bench.changed, bench.cold, rounds=ROUNDS, warm=False)


class _Builder:
    """A definition of 200 files and some wheels, and the same with one file changed."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.cache, self.keys = work / "cache", work / "keys"
        (work / "passphrase").touch(0o600)
        (work / "passphrase").write_text(secrets.token_urlsafe(24))
        self.environment = {**os.environ, "APPLIANCE_PASSPHRASE_FILE": str(work / "passphrase")}
        self._appliance("keys", "init", "--keys", self.keys)
        (work / "inputs").mkdir()
        files = [self._input(f"{i:03}") for i in range(INPUTS)]
        self._write("first", files)
        self._write("second", [*files[:-1], self._input("changed") | {"name": files[-1]["name"]}])

    def _input(self, name: str) -> dict[str, object]:
        data = os.urandom(SIZE)
        (self.work / "inputs" / name).write_bytes(data)
        return {"name": name, "url": f"file:inputs/{name}", "sha256": hashlib.sha256(data).hexdigest(),
                "licence": "Apache-2.0", "profiles": ["gpu"]}  # fmt: skip

    def _write(self, name: str, files: list[dict[str, object]]) -> None:
        definition = {
            "schema": 1,
            "name": "bench",
            "version": "1.0.0",
            "description": "What the bench builds.",
            **_asked(),
            "files": files,
        }
        (self.work / f"{name}.yml").write_text(yaml.safe_dump(definition, sort_keys=False))

    def _appliance(self, *argv: str | Path) -> None:
        call([sys.executable, "-m", "installer", *argv], cwd=TREE, env=self.environment)

    def lock(self) -> None:
        """Lock both, and write the wheels of the lock as a requirements file for pip."""
        for name in ("first", "second"):
            self._appliance("lock", self.work / f"{name}.yml", "--cache", self.cache)
        locked = _read(self.work / "first.lock.yml")
        wheels = {a.name: a for a in locked.artifacts if a.path.endswith(".whl") and not a.source.startswith("build:")}
        (self.work / "requirements.txt").write_text(
            "".join(f"{a.name}=={a.version} --hash=sha256:{a.sha256}\n" for a in wheels.values())
        )
        self.new = next(a for a in _read(self.work / "second.lock.yml").artifacts if a.path == f"files/{INPUTS - 1:03}")

    def _build(self, name: str) -> float:
        return seconds(
            lambda: self._appliance(
                "build", "bundle", self.work / f"{name}.yml", "--cache", self.cache, "--keys", self.keys, "--out", self.work / "dist"
            )
        )()  # fmt: skip

    def cold(self) -> float:
        """Nothing is in the cache."""
        for path in (self.cache, self.work / "dist"):
            shutil.rmtree(path, ignore_errors=True)
        return self._build("first")

    def changed(self) -> float:
        """Everything but one file is in the cache."""
        path = Blobs(self.cache).path(self.new.sha256)
        path.unlink(missing_ok=True)
        return self._build("second")

    def pip(self) -> float:
        """One plain download of the same wheels into an empty directory, hashed once more as we do."""
        place = self.work / "pip"
        shutil.rmtree(place, ignore_errors=True)
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--no-deps", "--require-hashes"]
        argv += _for_target()

        def run() -> None:
            call([*argv, "-d", place, "-r", self.work / "requirements.txt"])
            call(["sha256sum", *sorted(place.iterdir())])

        return seconds(run)()


def _asked() -> dict[str, Any]:
    """Target and wheels: of the definition that is named, or of the one beside this module; with its pins."""
    named = TREE / os.environ.get("APPLIANCE_BENCH_DEFINITION", "tests/bench/building.yml")
    found = yaml.safe_load(named.read_text())
    wheels = [{**w, "pins": str(named.parent / w["pins"])} if w.get("pins") else w for w in found["wheels"]]
    return {"target": {k: found["target"][k] for k in ("os", "arch", "python")}, "wheels": wheels}


def _for_target() -> list[str]:
    """What tells pip of the target, whose glibc may be newer than this machine's (2.39 is Ubuntu 24.04's)."""
    platforms = ["manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)), "linux_x86_64"]
    words = [w for p in platforms for w in ("--platform", p)]
    return ["--only-binary", ":all:", "--python-version", str(_asked()["target"]["python"]), *words]


def _read(path: Path) -> lockfile.Lock:
    lock = lockfile.load_any(path)
    if lock is None:
        raise SystemExit(f"bench: {path} was not written")
    return lock
