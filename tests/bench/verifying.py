"""How fast a bundle is verified: against the hash itself, and against the tool everybody has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from engine.verify import verify
from tests.bench.measure import Case, seconds
from tests.bundles import Bundle, make

SHARDS, SHARD = 4, 512 << 20  # 2 GiB in four files, as weights come
SMALL, LARGE, BYTES = 20_000, 200, 200 << 20  # the same bytes in many files and in few


def cases(work: Path) -> Iterator[Case]:
    """Everything stays in the page cache, so that the disk is not what is measured."""
    bundle = _bundle(work / "weights", SHARDS, SHARD)
    sums = work / "SHA256SUMS"
    sums.write_bytes(subprocess.run(["sha256sum", *sorted(_files(bundle))], capture_output=True, check=True).stdout)
    yield Case(
        "verify-throughput", "bytes/s", lambda: _throughput(bundle), "cores times openssl speed -evp sha256", _openssl, 0.90, higher=True
    )  # fmt: skip
    root = work / "root.json"
    root.write_bytes(bundle.root)
    command = [sys.executable, "-m", "installer", "verify", str(bundle.path), "--root", str(root), "--quiet"]
    yield Case(
        "verify-2GiB", "s", seconds(lambda: _run(command)), "sha256sum -c", seconds(lambda: _run(["sha256sum", "-c", "--quiet", str(sums)])), 0.12
    )  # fmt: skip
    small, large = _bundle(work / "small", SMALL, BYTES // SMALL), _bundle(work / "large", LARGE, BYTES // LARGE)
    yield Case(
        "verify-20000-files", "s", seconds(lambda: _verify(small)), "200 files of the same bytes times 1.3 + 0.1 ms a file",
        lambda: 1.3 * seconds(lambda: _verify(large))() + 0.0001 * SMALL, 1.0,
    )  # fmt: skip


def _bundle(where: Path, files: int, size: int) -> Bundle:
    where.mkdir()
    return make(where, {f"models/m/part-{i:05}.bin": os.urandom(size) for i in range(files)})


def _files(bundle: Bundle) -> list[str]:
    return [str(p) for p in (bundle.path / "content").rglob("*.bin")]


def _verify(bundle: Bundle) -> None:
    if not verify(bundle.path, bundle.root).good:
        raise SystemExit(f"bench: {bundle.path} does not verify")


def _throughput(bundle: Bundle) -> float:
    return SHARDS * SHARD / seconds(lambda: _verify(bundle))()


def _openssl() -> float:
    """The core's rate for long messages, as openssl itself measures it, times the cores."""
    out = subprocess.run(
        ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", "1048576", "-evp", "sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rates = [float(line.split(":")[-1]) for line in out.splitlines() if line.startswith("+F")]
    return rates[-1] * (os.cpu_count() or 1)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
