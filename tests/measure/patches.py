"""How small a step from one release to the next gets, by codec: the tables of docs/decisions/0029 and 0030.

    pip download --no-deps vllm==0.31.0 vllm==0.32.0
    python -m tests.measure.patches images vllm-0.31.0*.whl vllm-0.32.0*.whl
    python -m tests.measure.patches weights
    python -m tests.measure.patches deflate vllm-0.32.0*.whl
    pip install fastcdc && python -m tests.measure.patches chunks vllm-0.31.0*.whl vllm-0.32.0*.whl

Prints JSON lines. Times are of a shared machine: compare those of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from engine.errors import TrustError
from installer.patch import make, tensors, zstd
from installer.patch.frames import mapped, segments
from installer.patch.make import File
from tests.measure.weights import save

OPTIONS = (
    "-noappend -comp zstd -Xcompression-level 3 -all-root -all-time 0 -no-xattrs -processors 2 -quiet -no-progress"
)
BLOCKS = ("128K", "256K", "1M")
RELATIVE = (1e-5, 1e-4, 1e-3, 1e-2)


def images(work: Path, wheels: list[Path]) -> None:
    """Two versions as images of each block size, with and without fragments: sizes, the patch, and its cost."""
    trees = [work / p.stem for p in wheels]
    for tree, wheel in zip(trees, wheels, strict=True):
        zipfile.ZipFile(wheel).extractall(tree)
    for block in BLOCKS:
        for fragments in (True, False):
            old, new = (_image(tree, block, fragments) for tree in trees)
            _print(measure="image", block=block, fragments=fragments, **_image_patch(work, old, new, wheels[1]))
            old.path.unlink()
            new.path.unlink()


def _image_patch(work: Path, old: File, new: File, wheel: Path) -> dict[str, float]:
    patch = work / "patch"
    took = _seconds(lambda: make.make(old, new, patch, limit=new.size))
    size = patch.stat().st_size
    return {
        "image": new.size, "patch": size, "of_image": round(size / new.size, 4), "of_wheel": round(size / wheel.stat().st_size, 4),
        "again": _again(new.path), "make_s": took, "apply_s": _seconds(lambda: _apply(work, old, new, patch)),
        "copy_s": _seconds(lambda: _copy(new.path, work / "copy")),
    }  # fmt: skip


def weights(work: Path, _: list[Path]) -> None:
    """Synthetic bf16 weights, all numbers changed a little: XOR against other ways."""
    base = save(work / "old.safetensors", 0.0)
    for relative in RELATIVE:
        new = save(work / "new.safetensors", relative)
        data, old = new.path.read_bytes(), base.path.read_bytes()
        step = 8 << 20
        parts = [(old[i : i + step], data[i : i + step]) for i in range(0, len(data), step)]
        xored = [(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).tobytes() for a, b in parts]
        took = _seconds(partial(tensors.make, base, new, work / "patch", limit=new.size))
        share = {
            "whole, zstd -3": sum(len(zstd.compress(b, 3)) for _, b in parts),
            "zstd --patch-from": sum(len(zstd.compress(b, 3, a)) for a, b in parts),
            "XOR, zstd -3": sum(len(zstd.compress(x, 3)) for x in xored),
            "ours: XOR, grouped, zstd -3": (work / "patch").stat().st_size,
        }
        _print(
            measure="weights", synthetic=True, relative=relative, size=new.size, make_s=took, **{k: round(v / new.size, 4) for k, v in share.items()},
        )  # fmt: skip


def deflate(_: Path, wheels: list[Path]) -> None:
    """How many members of a wheel zlib's default deflates again to the same bytes, and how long that takes."""
    for wheel in wheels:
        members = same = size = same_size = 0
        took = 0.0
        with zipfile.ZipFile(wheel) as archive, wheel.open("rb") as raw:
            for info in archive.infolist():
                raw.seek(info.header_offset + 26)
                raw.seek(sum(struct.unpack("<HH", raw.read(4))), os.SEEK_CUR)
                packed, plain = raw.read(info.compress_size), archive.read(info)
                begin = time.process_time()
                packer = zlib.compressobj(6, zlib.DEFLATED, -15)
                again = packer.compress(plain) + packer.flush() if info.compress_type else plain
                took += time.process_time() - begin
                members, size = members + 1, size + len(packed)
                if again == packed:
                    same, same_size = same + 1, same_size + len(packed)
        _print(
            measure="deflate", wheel=wheel.name, members=members, again=same, bytes=size, bytes_again=same_size,
            cpu_s=round(took, 1), zlib=zlib.ZLIB_RUNTIME_VERSION,
        )  # fmt: skip


def chunks(work: Path, wheels: list[Path]) -> None:
    """What chunking by content would send: of wheels as they are, of their trees, and of weights."""
    trees = [work / p.stem for p in wheels]
    for tree, wheel in zip(trees, wheels, strict=True):
        zipfile.ZipFile(wheel).extractall(tree)
    _chunked("wheel", [wheels[0]], [wheels[1]])
    _chunked("unpacked wheel", *([p for p in sorted(t.rglob("*")) if p.is_file()] for t in trees))
    _chunked("image, 1M", *([_image(t, "1M", True).path] for t in trees))
    base = save(work / "old.safetensors", 0.0)
    for relative in RELATIVE:
        _chunked(f"weights {relative}", [base.path], [save(work / "new.safetensors", relative).path])


def _chunked(what: str, old: list[Path], new: list[Path]) -> None:
    """Chunks of 16 to 256 KiB, 64 on average, as backup tools and chunk stores cut them; what is new, compressed by zstd -3."""
    from fastcdc import fastcdc  # type: ignore[import-not-found,import-untyped,unused-ignore]

    known = set()
    for path in old:
        data = path.read_bytes()
        known |= {hashlib.blake2b(data[c.offset : c.offset + c.length]).digest() for c in _cut(fastcdc, path)}
    size = sent = packed = 0
    for path in new:
        data = path.read_bytes()
        size += len(data)
        for chunk in _cut(fastcdc, path):
            piece = data[chunk.offset : chunk.offset + chunk.length]
            if (digest := hashlib.blake2b(piece).digest()) not in known:
                known.add(digest)
                sent, packed = sent + len(piece), packed + len(zstd.compress(piece, 3))
    _print(
        measure="chunks",
        what=what,
        size=size,
        sent=round(sent / size, 4),
        sent_zstd=round(packed / size, 4),
        bytes=packed,
    )


def _cut(fastcdc: Callable[..., list], path: Path) -> list:  # type: ignore[type-arg]
    return list(fastcdc(str(path), 16 << 10, 64 << 10, 256 << 10)) if path.stat().st_size else []


def _image(tree: Path, block: str, fragments: bool) -> File:
    out = tree.with_suffix(".squashfs")
    command = [
        "mksquashfs",
        str(tree),
        str(out),
        *OPTIONS.split(),
        "-b",
        block,
        *([] if fragments else ["-no-fragments"]),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return File(out, hashlib.sha256(out.read_bytes()).hexdigest(), out.stat().st_size)


def _again(path: Path) -> float:
    """Share of an image's frames, by bytes, that this machine's libzstd makes again exactly."""
    total = same = 0
    with mapped(path) as data:
        for segment in segments(data):
            if segment.raw:
                frame = bytes(data[segment.offset : segment.offset + segment.length])
                total += len(frame)
                with contextlib.suppress(TrustError):  # some only look like frames
                    same += len(frame) * (zstd.pack(zstd.decompress(frame, segment.raw), 3) == frame)
    return round(same / total, 4)


def _apply(work: Path, old: File, new: File, patch: Path) -> None:
    from tests.bench.patching import apply

    apply(work / "blobs", old, new, patch)
    shutil.rmtree(work / "blobs")


def _copy(source: Path, to: Path) -> None:
    from tests.bench.patching import copy

    copy(source, to)
    to.unlink()


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return round(time.perf_counter() - begin, 2)


def _print(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """One of the measurements."""
    what = {f.__name__: f for f in (images, weights, deflate, chunks)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=what)
    parser.add_argument("wheels", nargs="*", type=Path)
    parser.add_argument("--work", type=Path, help="where large files may lie for a while")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        what[given.what](Path(work), given.wheels)


if __name__ == "__main__":
    main()
