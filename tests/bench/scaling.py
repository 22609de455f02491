"""Whether locking and verifying cost the same per file, however many there are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from engine.blobs import Blobs
from engine.verify import verify
from installer import definition, lockfile
from installer.kinds import Work, files
from tests.bench import trees
from tests.bench.measure import Claim, Pair, Run, seconds

FEW, COUNTS = 200, (2_000, 20_000)
CLAIMS = tuple(
    Claim(f"{what}-each-of-{count}", "s/file", f"the same with {FEW} files", 1.0)
    for what in ("verify", "lock")
    for count in COUNTS
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """Files of 10 kB, so that what counts is the work for each file."""
    for what, prepare in (("verify", _verify), ("lock", _lock)):
        few: Run | None = None
        for count in COUNTS:
            if only in f"{what}-each-of-{count}":
                few = few or prepare(work, FEW)
                yield Pair(
                    f"{what}-each-of-{count}", prepare(work, count), few, rounds=3 if count == COUNTS[-1] else None
                )


def _verify(work: Path, count: int) -> Run:
    bundle = trees.bundle(work / f"verify-{count}", count, 10_000)
    return _per_file(lambda: verify(bundle.path, bundle.root), count)


def _lock(work: Path, count: int) -> Run:
    """Definition in, lock out and read back, for a definition of ``count`` local files and a cache that has them."""
    base = work / f"lock-{count}"
    base.mkdir()
    entries = []
    for i in range(count):
        data = f"{i:<10000}".encode()
        (base / f"{i}.bin").write_bytes(data)
        entries.append({"name": f"{i}.bin", "url": f"file:{i}.bin", "sha256": hashlib.sha256(data).hexdigest(),
                        "profiles": ["gpu"]})  # fmt: skip
    path = base / "many.yml"
    about = {
        "schema": 1,
        "name": "many",
        "version": "1.0.0",
        "target": {"os": "debian-12", "arch": "x86_64", "python": "3.11"},
    }
    path.write_text(yaml.safe_dump(about | {"files": entries}, sort_keys=False))

    def run() -> None:
        parsed = definition.load(path)
        artifacts = files.resolve(Work(parsed, base, Blobs(base / "cache")))
        saved = lockfile.path_of(path)
        lockfile.save(saved, lockfile.make(parsed, artifacts))
        lockfile.load(saved, parsed)

    return _per_file(run, count)


def _per_file(action: Callable[[], object], count: int) -> Run:
    took = seconds(action)
    return lambda: took() / count
