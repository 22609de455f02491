"""Patches: any file rebuilt bit by bit, from any byte on, and what a hostile one asks for is refused."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from engine.blobs import Blobs
from engine.errors import ResourceError, TrustError
from installer.patch import tensors, wheels, zstd
from installer.patch.apply import apply
from installer.patch.frames import segments
from installer.patch.index import MAGIC, MAX_RAW, MAX_REFERENCE, Index, Part, Stage, dump, load
from installer.patch.make import make
from tests.patched import BLOCK, CHANGED, NEW, NOISE, NUMBERS, OLD, TEXT, archive, blocks, file, image, text


class Out:
    """A sink in memory that has ``done`` bytes already."""

    def __init__(self, have: bytes = b"") -> None:
        self.data, self.done = bytearray(have), len(have)

    def write(self, chunk: bytes, /) -> None:
        self.data += chunk
        self.done += len(chunk)


def applied(patch: Path, base: Path, have: bytes = b"") -> bytes:
    out = Out(have)
    with patch.open("rb") as one, base.open("rb") as other:
        index, start = load(one, patch.stat().st_size)
        apply(index, start, one, other, out)
    return bytes(out.data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with old, new and the patch between them."""
    place = tmp_path_factory.mktemp("made")
    assert make(file(place / "old", OLD), file(place / "new", NEW), place / "patch", limit=len(NEW))
    return place


def test_a_patch_makes_the_image_again_from_a_part_of_its_size(made: Path) -> None:
    assert applied(made / "patch", made / "old") == NEW
    assert (made / "patch").stat().st_size < len(NEW) * 0.1
    with (made / "patch").open("rb") as one:
        index, _ = load(one, (made / "patch").stat().st_size)
    kinds = {kind for s in index.stages for kind, _, _ in s.parts}
    assert kinds == {Part.COPY, Part.PACK, Part.PLAIN}
    assert index.level == 3


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.97, 1.0])
def test_a_stopped_rebuild_goes_on_at_any_byte(made: Path, share: float) -> None:
    assert applied(made / "patch", made / "old", NEW[: int(share * len(NEW))]) == NEW


def test_a_block_of_another_compressor_is_carried_as_it_is(tmp_path: Path) -> None:
    """The longest frames are no blocks: they lie in a file that the image holds."""
    foreign = [zstd.pack(TEXT[n : n * 1000 + 3 * BLOCK], 19) for n in range(7)]
    odd = (
        image([CHANGED[n:][:BLOCK] for n in range(0, 5 * BLOCK, BLOCK)])
        + b"".join(foreign)
        + zstd.pack(TEXT[:70_000], 7)
    )
    assert make(file(tmp_path / "old", OLD), file(tmp_path / "new", odd), tmp_path / "p", limit=len(odd))
    assert applied(tmp_path / "p", tmp_path / "old") == odd
    with (tmp_path / "p").open("rb") as one:
        index, _ = load(one, (tmp_path / "p").stat().st_size)
    assert index.level == 3
    packed = [raw for s in index.stages for kind, raw, _ in s.parts if kind == Part.PACK]
    assert packed.count(BLOCK) == 5


def test_a_receiver_with_another_libzstd_gets_no_blocks_to_compress(tmp_path: Path, made: Path) -> None:
    old, new = file(tmp_path / "old", OLD), file(tmp_path / "new", NEW)
    assert make(old, new, tmp_path / "p", limit=len(NEW), pack_again=False)
    with (tmp_path / "p").open("rb") as one:
        index, _ = load(one, (tmp_path / "p").stat().st_size)
    assert index.level == 0
    apply_index = replace(index, libzstd="1.0.0")
    with (tmp_path / "p").open("rb") as one, (tmp_path / "old").open("rb") as base:
        _, start = load(one, (tmp_path / "p").stat().st_size)
        out = Out()
        apply(apply_index, start, one, base, out)
    assert out.data == NEW


def test_another_libzstd_is_said_and_not_tried(made: Path) -> None:
    with (made / "patch").open("rb") as one, (made / "old").open("rb") as base:
        index, start = load(one, (made / "patch").stat().st_size)
        out = Out()
        with pytest.raises(ResourceError, match=r"as libzstd 9\.9\.9 does; here is 1\."):
            apply(replace(index, libzstd="9.9.9"), start, one, base, out)
    assert out.done == 0


def test_what_has_nothing_in_common_gets_no_patch_and_leaves_nothing(tmp_path: Path) -> None:
    old, new = (file(tmp_path / n, NUMBERS.randbytes(500_000)) for n in ("old", "new"))
    assert make(old, new, tmp_path / "p", limit=400_000) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"old", "new"}


def test_a_damaged_base_on_the_builder_is_named(tmp_path: Path) -> None:
    old, new = file(tmp_path / "old", OLD), file(tmp_path / "new", NEW)
    old.path.write_bytes(OLD[:-1] + b"?")
    with pytest.raises(TrustError, match="not as signed"):
        make(old, new, tmp_path / "p", limit=len(NEW))
    new.path.write_bytes(NEW[:-1] + b"?")
    old.path.write_bytes(OLD)
    with pytest.raises(TrustError, match="does not make the file"):
        make(old, new, tmp_path / "p", limit=len(NEW))
    assert {p.name for p in tmp_path.iterdir()} == {"old", "new"}


SMALL = image([TEXT[i : i + 5000] for i in range(0, 40_000, 5000)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("cfrg"), st.integers(0, 80), st.integers(0, 7000)), max_size=6),
    st.integers(0, 3),
)
def test_any_two_files_are_bridged(tmp_path_factory: pytest.TempPathFactory, edits: list[Any], cut: int) -> None:
    """Whatever was cut out, copied, framed or garbled, what comes out is the target."""
    place, new = tmp_path_factory.mktemp("any"), bytearray()
    for kind, at, length in edits:
        piece = TEXT[at * 500 : at * 500 + length]
        new += {"c": piece, "f": zstd.pack(piece, 3), "r": SMALL[at * 100 :][:length], "g": zstd.pack(piece, 1)[cut:]}[
            kind
        ]
    old, target = file(place / "old", SMALL[: len(SMALL) // (cut + 1)]), file(place / "new", bytes(new))
    if make(old, target, place / "p", limit=len(new) + 10_000):
        assert applied(place / "p", place / "old") == bytes(new)
    else:
        assert not (place / "p").exists()
    shutil.rmtree(place)


@given(st.binary(max_size=3000), st.integers(0, 5))
def test_segments_cover_every_byte_once(data: bytes, copies: int) -> None:
    whole = bytearray((zstd.pack(data, 3) + data) * copies + b"\x28\xb5\x2f")
    end = 0
    for segment in segments(memoryview(whole)):
        assert segment.offset == end
        assert segment.length > 0
        end += segment.length
    assert end == len(whole)


# What a hostile patch says. It would have to be signed to get so far; even then it gets no memory and no byte it should not.

GOOD = Index(
    "frames",
    "b" * 64,
    1000,
    "a" * 64,
    50,
    zstd.version(),
    3,
    (Stage(((0, 10, 0),), 20, 30, ((0, 5, 20), (2, 30, 30))),),
)


def patched(index: Index, payload: bytes = b"\0" * 20) -> bytes:
    return dump(index) + payload


def framed(plain: bytes) -> bytes:
    packed = zstd.pack(plain, 3)
    return MAGIC + struct.pack("<QQ", len(packed), len(plain)) + packed


def with_stage(**changes: Any) -> Index:
    stage = replace(GOOD.stages[0], **changes)
    return replace(GOOD, stages=(stage,), target_size=stage.size)


HOSTILE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("another file", b"PK\x03\x04" + bytes(60)),
    ("an index that is longer than the file", MAGIC + struct.pack("<QQ", 1 << 40, 10)),
    ("a bomb", MAGIC + struct.pack("<QQ", 60, 1 << 40) + bytes(60)),
    ("no frame", MAGIC + struct.pack("<QQ", 60, 100) + bytes(60)),
    ("payloads that end early", patched(GOOD)[:-1]),
    ("more behind the payloads", patched(GOOD) + b"x"),
    ("a copy behind the base's end", patched(with_stage(parts=((0, 990, 20), (2, 30, 30))))),
    ("a reference behind the base's end", patched(with_stage(ranges=((991, 10, 0),)))),
    ("a huge payload", patched(with_stage(raw=MAX_RAW + 1, parts=((2, MAX_RAW + 1, MAX_RAW + 1),)))),
    ("a huge reference", patched(with_stage(ranges=((0, 10, MAX_REFERENCE + 1),)))),
    ("many references", patched(with_stage(ranges=((0, 10, MAX_REFERENCE // 2),) * 3))),
    ("a part of no kind", patched(with_stage(parts=((5, 30, 30),)))),
    ("plain bytes that change length", patched(with_stage(parts=((2, 30, 31),)))),
    ("a frame far longer than what it holds", patched(with_stage(parts=((1, 30, 1 << 30),)))),
    ("parts that leave some of the payload", patched(with_stage(parts=((2, 29, 29),)))),
    ("a stream that gives more than it took", patched(with_stage(parts=((3, 30, 1 << 20),)))),
    ("an end that takes bytes", patched(with_stage(parts=((2, 20, 20), (4, 10, 10))))),
    ("numbers of three bytes", patched(with_stage(width=3, ranges=((0, 30, 0),)))),
    ("numbers without as many in the base", patched(with_stage(width=2))),
    ("another length than the target's", patched(replace(GOOD, target_size=51))),
    ("a level that is none", patched(replace(GOOD, level=23))),
    ("frames without a level", patched(replace(with_stage(parts=((1, 30, 25),)), level=0))),
    ("a negative number", patched(with_stage(ranges=((-1, 10, 0),)))),
    ("a number that is no whole one", patched(with_stage(ranges=((1.5, 10, 0),)))),
    ("a number beyond any file", patched(with_stage(ranges=((1 << 60, 10, 0),)))),
    ("a list in a list in a list", framed(b"[" * 100_000)),
    ("no table", framed(b"[1, 2]")),
    ("a stage that is none", framed(b'{"stages": [7]}')),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data"), HOSTILE, ids=[h[0] for h in HOSTILE])
def test_a_hostile_patch_is_refused_before_anything_is_made(what: str, data: bytes) -> None:
    with pytest.raises(TrustError, match=r"not a sound patch|compressed data"):
        load(io.BytesIO(data), len(data))


def test_a_sound_index_is_read_as_it_was_written() -> None:
    data = patched(GOOD)
    assert load(io.BytesIO(data), len(data)) == (GOOD, len(data) - 20)


def test_payloads_that_lie_make_nothing(made: Path, tmp_path: Path) -> None:
    """Behind a sound index: other bytes of the right length. Refused while they are unpacked, or by the signed hash."""
    data, refused = (made / "patch").read_bytes(), 0
    for at in range(len(data) - 5000, len(data), 700):
        bad, blobs = tmp_path / "bad", Blobs(tmp_path / f"blobs-{at}")
        bad.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        sha256 = hashlib.sha256(NEW).hexdigest()
        try:
            with (
                bad.open("rb") as one,
                (made / "old").open("rb") as base,
                blobs.incoming(sha256, len(NEW)) as incoming,
            ):
                index, start = load(one, len(data))
                apply(index, start, one, base, incoming)
        except TrustError:
            refused += 1
            assert not blobs.path(sha256).exists()
        else:  # a bit that means nothing to the decompressor
            assert blobs.path(sha256).read_bytes() == NEW
    assert refused >= 6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an image, a wheel of its content, and the patch that makes the wheel."""
    place = tmp_path_factory.mktemp("wheel")
    big = text(20_000, 145_000)  # longer than a stage
    picture = file(place / "image", image(blocks(TEXT) + blocks(NOISE) + blocks(big)))
    members = {
        "a.py": TEXT[:100_000],
        "big.so": big,
        "stored": NOISE[:9000],
        "odd": TEXT[:200_000],
        "n": NOISE[5:90_000],
        "e": b"",
    }
    target = file(place / "new", archive(members))
    with wheels.library(picture) as known:
        assert wheels.make(picture, known, target, place / "patch", limit=target.size)
    return place


def test_a_wheel_is_made_of_the_image_that_holds_its_content(wheel: Path) -> None:
    new = (wheel / "new").read_bytes()
    assert applied(wheel / "patch", wheel / "image") == new
    assert (wheel / "patch").stat().st_size < len(new) * 0.05


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_wheel_is_continued_before_the_member_it_stopped_in(wheel: Path, share: float) -> None:
    new = (wheel / "new").read_bytes()
    assert applied(wheel / "patch", wheel / "image", new[: int(share * len(new))]) == new


def test_what_is_no_archive_gets_no_patch_as_a_wheel(wheel: Path, tmp_path: Path) -> None:
    picture = file(tmp_path / "image", (wheel / "image").read_bytes())
    with wheels.library(picture) as known:
        assert wheels.make(picture, known, file(tmp_path / "new", NOISE), tmp_path / "p", limit=1 << 20) == 0


WEIGHTS: dict[str, Any] = {"a": (np.arange(90_000) % 977).astype(np.float32), "b": np.ones((300, 300), np.float16)}


def safetensors(tensors: dict[str, Any]) -> bytes:
    return bytes(save(tensors))


def test_weights_of_the_same_layout_cross_as_what_their_bits_differ_in(tmp_path: Path) -> None:
    """The tensors may lie in another order, and one may be new."""
    step = {"b": WEIGHTS["b"], "new": np.zeros(7, np.uint8), "a": (WEIGHTS["a"] * 1.00001).astype(np.float32)}
    old, new = file(tmp_path / "old", safetensors(WEIGHTS)), file(tmp_path / "new", safetensors(step))
    assert 0 < tensors.make(old, new, tmp_path / "p", limit=new.size) < new.size * 0.4
    data = new.path.read_bytes()
    assert applied(tmp_path / "p", old.path) == data
    assert applied(tmp_path / "p", old.path, data[:200_001]) == data


def test_weights_of_another_layout_or_none_at_all_get_no_patch(tmp_path: Path) -> None:
    noise = {"a": np.frombuffer(NOISE[:90_000], np.uint8), "b": np.frombuffer(NOISE[:90_000], np.uint8)}
    old, new = file(tmp_path / "old", safetensors(WEIGHTS)), file(tmp_path / "new", safetensors(noise))
    assert tensors.make(old, new, tmp_path / "p", limit=int(new.size * 0.4)) == 0
    assert tensors.make(old, file(tmp_path / "none", NOISE), tmp_path / "p", limit=1 << 30) == 0
    assert not (tmp_path / "p").exists()


@given(st.integers(0, 3), st.binary(min_size=8, max_size=400))
def test_grouping_comes_undone(power: int, data: bytes) -> None:
    width = 1 << power
    data = data[: len(data) // 16 * 16] or bytes(16)
    base, target = data[: len(data) // 2], data[len(data) // 2 :]
    assert tensors.ungrouped(base, tensors.grouped(base, target, width), width) == target
