"""Fuzz targets of patches: their signed list, the description in a patch file, and its payloads."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import tempfile
from dataclasses import asdict, replace

from securesystemslib.dsse import Envelope

from engine import metadata
from engine.errors import ApplianceError
from installer.carry import patches
from installer.patch import zstd
from installer.patch.apply import apply
from installer.patch.index import LENGTHS, MAGIC, Index, load
from installer.patch.make import make
from tests.bundles import MemoryKeys
from tests.fuzz.signing import good_trusted
from tests.fuzz.targets import FuzzTarget, good, scratch
from tests.patched import TEXT, file, image

OLD, NEW = (image([text[i : i + 5000] for i in range(0, 20_000, 5000)]) for text in (TEXT, TEXT.replace(b"7", b"!!")))
LIMIT = 1 << 20  # bytes; more than a patch for files as small as these may write


class _Sink:
    """Counts; an honest depot refuses more than the signed size by itself."""

    done = 0

    def write(self, chunk: bytes, /) -> None:
        self.done += len(chunk)
        assert self.done <= LIMIT


@functools.cache
def _good() -> tuple[bytes, Index, int]:
    """A patch, its description, and where its payloads begin."""
    place = scratch() / "patches"
    place.mkdir()
    assert make(file(place / "old", OLD), file(place / "new", NEW), place / "patch", limit=len(NEW))
    data = (place / "patch").read_bytes()
    with (place / "patch").open("rb") as opened:
        return (data, *load(opened, len(data)))


def _apply(data: bytes) -> None:
    with tempfile.TemporaryFile() as patch, (scratch() / "patches" / "old").open("rb") as base:
        patch.write(data)
        patch.flush()
        patch.seek(0)
        with contextlib.suppress(ApplianceError):
            index, start = load(patch, len(data))
            if index.target_size <= LIMIT:
                apply(index, start, patch, base, _Sink())


def description(data: bytes) -> None:
    """The index of a patch file, in front of good payloads."""
    whole, _, start = _good()
    packed = zstd.compress(data, 1)
    _apply(MAGIC + LENGTHS.pack(len(packed), len(data)) + packed + whole[start:])


def payload(data: bytes) -> None:
    """Payloads behind a good index; the first two bytes say where they are changed."""
    whole, _, start = _good()
    at = start + int.from_bytes(data[:2], "little") % (len(whole) - start)
    _apply(whole[:at] + data[2 : 2 + len(whole) - at] + whole[at + len(data[2:]) :])


def signed_list(data: bytes) -> None:
    """What a holder of the key with bad intent could sign."""
    envelope = Envelope(data, patches.TYPE, {})
    keys = good().keys
    assert isinstance(keys, MemoryKeys)
    for signer in keys.signers(patches.ROLE, ""):
        envelope.sign(signer)
    listed = {metadata.PATCHES: json.dumps(envelope.to_dict()).encode()}
    with contextlib.suppress(ApplianceError):
        known = {t.sha256 for t in good_trusted().targets.values()}
        for patch in patches.read(replace(good_trusted(), metadata=listed)):
            assert patch.target in known
            assert patch.path.startswith("patches/")
            assert "/" not in patch.path.removeprefix("patches/")


def _list_seed() -> bytes:
    trusted = good_trusted()
    target = next(iter(trusted.targets.values()))
    patch = patches.Patch(
        sha256="0" * 64, size=9, target=target.sha256, target_size=target.size, base="1" * 64, base_size=8,
        base_path="content/x", base_release="demo-0",
    )  # fmt: skip
    told = patches.List(schema=1, release=trusted.release, version=trusted.version, patches=(patch,))
    return told.model_dump_json(by_alias=True).encode()


TARGETS: dict[str, FuzzTarget] = {
    "patch_description": FuzzTarget(description, lambda: [json.dumps(asdict(_good()[1])).encode()]),
    "patch_payload": FuzzTarget(payload, lambda: [struct.pack("<H", n) + b"x" * n for n in (0, 9, 400)]),
    "patch_list": FuzzTarget(signed_list, lambda: [_list_seed()]),
}
