"""What a step to the next release costs as a patch: bytes of it, and time to rebuild, for images and for weights.

With the environment variables APPLIANCE_BENCH_OLD and APPLIANCE_BENCH_NEW naming two wheels (vLLM 0.31.0 and 0.32.0 for the
claims), images are made of their trees; else of two synthetic trees, whose sizes say nothing about vLLM.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.blobs import Blobs
from installer.patch import make, tensors, zstd
from installer.patch.apply import apply as apply_patch
from installer.patch.index import load
from installer.patch.make import File
from installer.runtime.image import squash
from tests.bench.measure import Claim, Pair, Run, seconds
from tests.measure.weights import save

MEMORY = 1 << 30  # bytes; what a rebuild may take


WEIGHTS = {1e-4: 0.03, 1e-3: 0.15}  # relative change of synthetic weights, and how much of the file a patch may be
CLAIMS = (
    Claim("image-patch-bytes", "bytes", "the new version's wheel", 0.12),
    Claim("image-rebuild", "s", "cp of the image, fsync", 1.5),
    Claim("image-rebuild-memory", "bytes", "1 GiB", 1.0),
    *(Claim(f"weights-patch-bytes-synthetic-{r:g}", "bytes", "the whole file", t) for r, t in WEIGHTS.items()),
    *(Claim(f"weights-patch-bytes-synthetic-{r:g}-zstd", "bytes", "zstd -3 of the whole file", 0.2) for r in WEIGHTS),
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """Bytes first (the same in each round), then times."""
    if any(only in c.name for c in CLAIMS[:3]):
        yield from _images(work)
    if any(only in c.name for c in CLAIMS[3:]):
        yield from _weights(work)


def _images(work: Path) -> Iterator[Pair]:
    old, new, wheel = _releases(work)
    patch = work / "patch"
    make.make(old, new, patch, limit=new.size)
    yield Pair("image-patch-bytes", _same(patch.stat().st_size), _same(wheel), rounds=1, warm=False)
    numbers = (work / f"at-{i}" for i in itertools.count())

    def rebuild() -> float:
        place = next(numbers)
        took = seconds(lambda: apply(place, old, new, patch))()
        shutil.rmtree(place)
        return took

    def copied() -> float:
        place = next(numbers)
        took = seconds(lambda: copy(new.path, place))()
        place.unlink()
        return took

    yield Pair("image-rebuild", rebuild, copied)
    yield Pair("image-rebuild-memory", lambda: _memory(work, old, new, patch), _same(MEMORY), rounds=1, warm=False)


def _weights(work: Path) -> Iterator[Pair]:
    base = save(work / "old.safetensors", 0.0)
    for relative in WEIGHTS:
        tuned = save(work / "new.safetensors", relative)
        made = tensors.make(base, tuned, work / "weights.patch", limit=tuned.size)
        packed = sum(len(zstd.compress(part, 3)) for part in _parts(tuned.path))
        name = f"weights-patch-bytes-synthetic-{relative:g}"
        yield Pair(name, _same(made), _same(tuned.size), rounds=1, warm=False)
        yield Pair(f"{name}-zstd", _same(made), _same(packed), rounds=1, warm=False)


def _same(value: float) -> Run:
    """Bytes do not vary from round to round."""
    return lambda: float(value)


def apply(place: Path, old: File, new: File, patch: Path) -> None:
    """Rebuild ``new`` as the depot does: hashed while it is written, flushed, renamed."""
    with (
        patch.open("rb") as file,
        old.path.open("rb") as base,
        Blobs(place).incoming(new.sha256, new.size) as incoming,
    ):
        index, start = load(file, patch.stat().st_size)
        apply_patch(index, start, file, base, incoming)


def copy(source: Path, to: Path) -> None:
    """A plain copy that is flushed to disk."""
    subprocess.run(["cp", source, to], check=True)
    with to.open("rb") as file:
        os.fsync(file.fileno())


def _memory(work: Path, old: File, new: File, patch: Path) -> float:
    """The most memory that a process needs which does nothing but rebuild, in bytes."""
    named = (work / "alone", old.path, new.path, new.sha256, patch)
    command = [sys.executable, "-m", "tests.bench.patching", *map(str, named)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(work / "alone")
    return float(told)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(8 << 20):
            yield part


def _releases(work: Path) -> tuple[File, File, int]:
    """Two images and the size of the new version's wheel."""
    old, new = os.environ.get("APPLIANCE_BENCH_OLD"), os.environ.get("APPLIANCE_BENCH_NEW")
    if old and new:
        for wheel, tree in ((old, work / "old"), (new, work / "new")):
            zipfile.ZipFile(wheel).extractall(tree)
        return _image(work / "old"), _image(work / "new"), Path(new).stat().st_size
    for tree, version in ((work / "old", 1), (work / "new", 2)):
        _tree(tree, version)
    size = Path(shutil.make_archive(str(work / "wheel"), "zip", work / "new" / "changed")).stat().st_size
    return _image(work / "old"), _image(work / "new"), size


def _tree(tree: Path, version: int) -> None:
    """Libraries of which a fifth changes: insertions and other numbers in a tenth of a percent of their bytes."""
    for n in range(20):
        data = bytearray(np.random.default_rng(n).integers(0, 100, 24 << 20, np.uint8).tobytes())
        place = tree / ("changed" if n < 4 else "same") / f"lib{n:02}.so"
        if version == 2 and n < 4:
            for at in range(0, len(data), 16 << 10):
                data[at : at + 8] = b"changed!"
            data[5 << 20 : 5 << 20] = b"inserted" * 100
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def _image(tree: Path) -> File:
    out = tree.with_suffix(".squashfs")
    squash(tree, out)
    shutil.rmtree(tree)
    return File(out, hashlib.sha256(out.read_bytes()).hexdigest(), out.stat().st_size)


def _alone(place: str, old: str, new: str, sha256: str, patch: str) -> None:
    """Rebuild and print the peak of this process's resident memory in bytes (not rusage's, which a parent leaves behind)."""
    apply(Path(place), File(Path(old), "", 0), File(Path(new), sha256, Path(new).stat().st_size), Path(patch))
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(int(line.split()[1]) << 10)


if __name__ == "__main__":
    _alone(*sys.argv[1:])
