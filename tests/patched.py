"""Files that look like squashfs images, an old and a new one, for tests of patches."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zipfile
from pathlib import Path

from installer.patch import zstd
from installer.patch.make import File

NUMBERS = random.Random(1)  # noqa: S311  the same files in every run
BLOCK = 128 << 10


def text(first: int, after: int) -> bytes:
    """Lines of which none is like another."""
    return b"".join(b"%d %s\n" % (n, hashlib.sha256(b"%d" % n).hexdigest().encode()) for n in range(first, after))


TEXT = text(0, 12_000)


def image(parts: list[bytes], level: int = 3) -> bytes:
    """Like a squashfs image: each block a frame of its own, what does not get smaller as it is, tables behind."""
    packed = [zstd.pack(p, level) for p in parts]
    blocks = [q if len(q) < len(p) else p for p, q in zip(parts, packed, strict=True)]
    return b"hsqs" + bytes(92) + b"".join(blocks) + struct.pack(f"<{len(blocks)}I", *map(len, blocks))


def blocks(data: bytes) -> list[bytes]:
    return [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]


def archive(members: dict[str, bytes], level: int = 6) -> bytes:
    """A wheel as build backends write it, but for ``odd``, which another compressor made, and ``stored``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name == "stored" else zipfile.ZIP_DEFLATED
            made.writestr(info, data, compresslevel=1 if name == "odd" else level)
    return out.getvalue()


NOISE = NUMBERS.randbytes(3 * BLOCK)
OLD = image(blocks(TEXT) + blocks(NOISE))
CHANGED = TEXT.replace(b" 3", b" 4", 900).replace(b"\n777", b"\n7 inserted 77")
NEW = image(blocks(CHANGED) + blocks(NOISE[1000:] + b"x" * 1000))


def file(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(path, hashlib.sha256(data).hexdigest(), len(data))
