"""Small files that become large ones: each is refused in little time, memory and space, in a process of its own."""

from __future__ import annotations

import functools
import gzip
import io
import json
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest

from installer import intake
from tests.bombs import MEMORY

GIB = 1 << 30
PIECE = 64 << 20
SECONDS = 20.0  # of processor time, for a bomb that goes off; what is refused takes one or two, more on a busy machine
ZEROS = bytes(PIECE)


def deflated(head: bytes) -> bytes:
    """gzip members of zeros behind ``head``; 1029:1."""
    return gzip.compress(head) + _zeros("gz") * (GIB // PIECE)


def xz(head: bytes) -> bytes:
    return lzma.compress(head) + _zeros("xz") * (GIB // PIECE)


def zst(head: bytes) -> bytes:
    """zstd frames of zeros behind ``head``; beyond 32 000:1 from the second frame on."""
    return zstd(head) + _zeros("zst") * (GIB // PIECE)


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", "-3"], input=data, capture_output=True, check=True).stdout


@functools.cache
def one_xz(head: bytes) -> bytes:
    """dpkg-deb reads one stream or frame only."""
    return lzma.compress(head + ZEROS * 3, preset=0)


@functools.cache
def one_zst(head: bytes) -> bytes:
    return zstd(head + ZEROS * 4)


@functools.cache
def _zeros(ending: str) -> bytes:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "xz": lambda d: lzma.compress(d, preset=1),
        "zst": zstd,
    }
    return packers[ending](ZEROS)


PACKERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gz": (deflated, deflated),
    "xz": (xz, one_xz),
    "zst": (zst, one_zst),
}


def head(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header that claims ``size`` bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


CONTROL = tar({"./control": b"Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"})


def deb(control: tuple[str, bytes], data: tuple[str, bytes]) -> bytes:
    """A Debian package of these packed archives (deb(5))."""
    out = b"!<arch>\n"
    for name, content in (
        ("debian-binary", b"2.0\n"),
        (f"control.tar.{control[0]}", control[1]),
        (f"data.tar.{data[0]}", data[1]),
    ):
        out += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )
    return out


def wheel(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def wheel_of_a_long_list(entries: int) -> bytes:
    """A zip archive that is nothing but a list of files."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    listed = entry * entries
    return listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries & 0xFFFF, entries & 0xFFFF, len(listed), 0, 0)


def lying(data: bytes) -> bytes:
    """The same wheel, whose list says that its file has ten bytes."""
    at = data.rindex(b"PK\1\2")
    return data[: at + 24] + struct.pack("<L", 10) + data[at + 28 :]


def wide_dictionary() -> bytes:
    """An xz file whose header wants a dictionary of 4 GiB."""
    data = bytearray(lzma.compress(b"Package: a\n"))
    size = (data[12] + 1) * 4
    data[16] = 40
    data[12 + size - 4 : 12 + size] = struct.pack("<L", zlib.crc32(bytes(data[12 : 12 + size - 4])))
    return bytes(data)


def header(text: bytes, claims: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if claims is None else claims) + text


def bombs() -> dict[str, bytes]:
    """Every bomb by READER/NAME."""
    good = ("gz", gzip.compress(CONTROL))
    made: dict[str, bytes] = {}
    for ending, (pack, pack_deb) in PACKERS.items():
        made[f"control/a-{ending}.deb"] = deb((ending, pack_deb(head("./a", GIB))), good)
        made[f"files/a-{ending}.deb"] = deb(good, (ending, pack_deb(head("./a", GIB))))
        made[f"files/pax-{ending}.deb"] = deb(good, (ending, pack_deb(head("a", GIB, tarfile.XHDTYPE))))
        made[f"layer/a.{ending}"] = pack(head("usr/lib/a", GIB))
        made[f"layer/long-name.{ending}"] = pack(head("a", GIB, tarfile.GNUTYPE_LONGNAME))
        made[f"layer/many-texts.{ending}"] = pack(head("usr/share/doc/a/copyright", GIB))
        made[f"index/Packages-{ending}"] = pack(b"Package: a\n")
        made[f"signed_index/Packages-{ending}"] = pack(b"Package: a\n")
    made["layer/lying.gz"] = gzip.compress(head("a", 1 << 40) + b"short")
    made["layer/negative.gz"] = gzip.compress(head("a", -512))
    made["layer/nested.gz"] = gzip.compress(deflated(b""))
    made["layer/databases.gz"] = (
        gzip.compress(b"".join(head(f"var/lib/dpkg/status.d/{i}", PIECE // 4) + ZEROS[: PIECE // 4] for i in range(4)))
        * 8
    )
    made["index/dictionary"] = wide_dictionary()
    metadata = "a-1.dist-info/METADATA"
    made["metadata/deflate.whl"] = wheel({metadata: ZEROS * 4})
    made["metadata/lying.whl"] = lying(wheel({metadata: ZEROS}))
    made["metadata/bzip2.whl"] = wheel({metadata: ZEROS * 4}, zipfile.ZIP_BZIP2)
    made["metadata/lzma.whl"] = wheel({metadata: ZEROS}, zipfile.ZIP_LZMA)
    made["metadata/list.whl"] = wheel_of_a_long_list(800_000)
    made["licences/texts.whl"] = wheel({f"a-1.dist-info/licenses/LICENSE-{i}": ZEROS[: 2 << 20] for i in range(100)})
    made["licences/bzip2.whl"] = wheel({"a-1.dist-info/LICENSE": ZEROS}, zipfile.ZIP_BZIP2)
    made["tensors/lists"] = header(b'{"a":[' + b"[]," * 2_200_000 + b"[]]}")
    made["tensors/deep"] = header(b'{"a":' + b"[" * 5_000_000)
    made["tensors/long"] = header(b"{}", 1 << 62)
    made["model_json/lists"] = b"[" + b"[]," * 2_200_000 + b"[]]"
    made["model_json/deep"] = b"[" * 3_000_000
    made["model_json/long"] = b""
    return made


BOUNDED = {
    "metadata/deflate.whl",
    "licences/texts.whl",
}  # read to their limit and no further: nothing is wrong with the rest
BY_BOUND = (
    "come out of it",
    "a header claims",
    "parts",
    "packed by a method",
    "Memory usage limit",
    "at once",
    " bytes",
    "deep",
    "recursion",
)
BY_SENSE = {
    "layer/lying.gz",
    "layer/negative.gz",
    "layer/nested.gz",
    "metadata/lying.whl",
}  # no bombs once they are read well
NAMES = (
    [f"{kind}-{e}.deb" for e in PACKERS for kind in ("control/a", "files/a", "files/pax")]
    + [f"layer/{n}.{e}" for e in PACKERS for n in ("a", "long-name", "many-texts")]
    + [f"{kind}/Packages-{e}" for e in PACKERS for kind in ("index", "signed_index")]
    + [
        "layer/lying.gz",
        "layer/negative.gz",
        "layer/nested.gz",
        "layer/databases.gz",
        "index/dictionary",
        "metadata/deflate.whl",
    ]
    + ["metadata/lying.whl", "metadata/bzip2.whl", "metadata/lzma.whl", "metadata/list.whl", "licences/texts.whl"]
    + ["licences/bzip2.whl", "tensors/lists", "tensors/deep", "tensors/long", "model_json/lists", "model_json/deep"]
    + ["model_json/long", "volume/lists", "volume/deep"]
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    place = tmp_path_factory.mktemp("bombs")
    for name, data in bombs().items():
        path = place / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    os.truncate(place / "model_json/long", intake.JSON_LIMIT + 1)
    for name, text in (("lists", b'{"volumes":[' + b"[]," * 2_200_000 + b"[]]}"), ("deep", b"[" * 5_000_000)):
        (place / "volume" / name).mkdir(parents=True)
        (place / "volume" / name / "volume.json").write_bytes(text)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bombs", place], stdout=subprocess.PIPE, check=True, text=True, timeout=300
    )
    shutil.rmtree(place)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(NAMES)
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_refused_in_little_memory_and_space(outcomes: dict[str, dict[str, object]], name: str) -> None:
    """It has 512 MiB of memory and a temporary file system of 1 MiB; nothing may stay there."""
    found = outcomes[name]
    assert str(found["end"]).startswith("read" if name in BOUNDED else "refused: "), found
    assert any(why in str(found["end"]) for why in BY_BOUND) or name in BOUNDED | BY_SENSE, found
    assert float(str(found["cpu_s"])) < SECONDS, found
    assert int(str(found["peak_mib"])) <= MEMORY >> 20, found
    assert found["left"] == []
