"""The header check: what it takes, the format's own library takes too; what it refuses, it says why."""

from __future__ import annotations

import io
import json
import math
import struct
from typing import Any

import pytest
import safetensors as library
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import TrustError
from installer import safetensors, tinymodel

NAME = "model.safetensors"


def packed(header: dict[str, Any] | bytes, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header; ``length`` is a lie about its size."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def tensor(begin: int, end: int, *, dtype: Any = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def check(data: bytes) -> frozenset[str]:
    return safetensors.check(io.BytesIO(data), len(data), NAME)


def in_library(data: bytes) -> set[str]:
    """The tensors the format's own library reads; its refusal is an error of the test."""
    return {name for name, _ in library.deserialize(data)}  # type: ignore[no-untyped-call]


def test_a_sound_file_gives_its_tensors() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor(4, 6, dtype="BF16", shape=[1]),
        "a": tensor(0, 4),
        "s": tensor(6, 6),
    }
    assert check(packed(header, bytes(6))) == {"a", "b", "s"}


def test_what_the_library_writes_passes_and_only_the_header_is_read() -> None:
    data = tinymodel.contents(0)["model.safetensors"]
    start = safetensors.start_size(data[:8], len(data), NAME)
    names = safetensors.check(io.BytesIO(data[:start]), len(data), NAME)
    assert names == in_library(data)
    assert "lm_head.weight" in names


@pytest.mark.parametrize("dtype", sorted(safetensors.DTYPE_BITS))
def test_every_dtype_has_the_librarys_size(dtype: str) -> None:
    data = packed(
        {"a": tensor(0, safetensors.DTYPE_BITS[dtype], dtype=dtype, shape=[2, 4])}, bytes(safetensors.DTYPE_BITS[dtype])
    )
    assert check(data) == {"a"}
    assert in_library(data) == {"a"}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "seven bytes": (bytes(7), "too short"),
    "header beyond the cap": (packed({}, length=100_000_001), "33554432 are allowed"),
    "header length overflows": (packed({}, length=2**64 - 1), "are allowed"),
    "header beyond the file": (packed({}, length=3), "the file has 2 after the length"),
    "no header": (packed(b""), "does not begin with a JSON object"),
    "leading space": (packed(b" {}"), "does not begin with a JSON object"),
    "a list": (packed(b"[]"), "does not begin with a JSON object"),
    "cut JSON": (packed(b'{"a":'), "not strict JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not strict JSON"),
    "two documents": (packed(b"{}{}"), "not strict JSON"),
    "NaN": (packed(b'{"a": NaN}'), "NaN is not JSON"),
    "tensor twice": (packed(b'{"a": 1, "a": 2}'), "a key stands twice"),
    "field twice": (packed(b'{"a": {"dtype": "U8", "dtype": "F64", "shape": [], "data_offsets": [0, 1]}}', b"x"), "a key stands twice"),
    "half a surrogate": (packed(b'{"\\ud800": {}}'), "not strict JSON"),
    "deep": (packed(b'{"a":' * 100_000), "nested too deeply"),
    "metadata not text": (packed({"__metadata__": {"a": 1}}), "not a table of texts"),
    "metadata half a surrogate": (packed({"__metadata__": {"a": "\ud800"}}), "no text"),
    "tensor not a table": (packed({"a": 3}), "exactly dtype, shape and data_offsets"),
    "field missing": (packed({"a": {"dtype": "U8", "shape": []}}), "exactly dtype, shape and data_offsets"),
    "field too many": (packed({"a": {**tensor(0, 1), "code": "x"}}, b"x"), "exactly dtype, shape and data_offsets"),
    "unknown dtype": (packed({"a": tensor(0, 1, dtype="OBJ")}, b"x"), "unknown dtype 'OBJ'"),
    "dtype not text": (packed({"a": tensor(0, 1, dtype=["U8"])}, b"x"), "unknown dtype"),
    "negative size": (packed({"a": tensor(0, 1, shape=[-1])}, b"x"), "not a list of sizes"),
    "size not whole": (packed({"a": tensor(0, 1, shape=[1.0])}, b"x"), "not a list of sizes"),
    "size is a truth": (packed({"a": tensor(0, 1, shape=[True])}, b"x"), "not a list of sizes"),
    "shape overflows": (packed({"a": tensor(0, 0, shape=[2**40, 2**40, 0])}), "too large for any file"),
    "offsets reversed": (packed({"a": {**tensor(0, 1), "data_offsets": [1, 0]}}, b"x"), "not a begin and an end"),
    "offset missing": (packed({"a": {**tensor(0, 1), "data_offsets": [0]}}, b"x"), "not a begin and an end"),
    "offset negative": (packed({"a": {**tensor(0, 1), "data_offsets": [-1, 0]}}, b"x"), "not a begin and an end"),
    "bytes and shape differ": (packed({"a": tensor(0, 3, shape=[4])}, b"xyz"), "needs 4 bytes by dtype and shape, its offsets span 3"),
    "bits left over": (packed({"a": tensor(0, 1, dtype="F4", shape=[3])}, b"x"), "needs 1.5 bytes"),
    "overlap": (packed({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), "tensor 'b' overlaps 'a'"),
    "same place": (packed({"a": tensor(0, 4), "b": tensor(0, 4)}, bytes(4)), "tensor 'b' overlaps 'a'"),
    "hole": (packed({"a": tensor(0, 4), "b": tensor(6, 8)}, bytes(8)), "2 bytes before tensor 'b' belong to no tensor"),
    "hole at the begin": (packed({"a": tensor(1, 2)}, bytes(2)), "1 bytes before tensor 'a'"),
    "beyond the file": (packed({"a": tensor(0, 9)}, bytes(8)), "the file has"),
    "bytes behind the last tensor": (packed({"a": tensor(0, 8)}, bytes(9)), "the file has"),
    "a program behind no tensor": (packed({}, b"PK\x03\x04"), "the file has"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_file_is_refused_with_the_reason(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(TrustError) as caught:
        check(data)
    assert reason in caught.value.what
    assert caught.value.where == NAME
    assert "no waiver" in caught.value.remedy


def test_a_header_that_ends_early_is_refused() -> None:
    data = packed({"a": tensor(0, 4)}, bytes(4))
    with pytest.raises(TrustError, match="its header ends early"):
        safetensors.check(io.BytesIO(data[:20]), len(data), NAME)


def test_a_long_name_does_not_fill_the_message() -> None:
    with pytest.raises(TrustError) as caught:
        check(packed({"\x1b[2J" + "x" * 10_000: 3}))
    assert len(caught.value.what) < 300
    assert "\x1b" not in caught.value.what


# -- fuzz: one rule, checked against the library: what passes here, it reads as well ------------
def agrees(data: bytes) -> bool:
    """Whether the check takes the file; fails when it takes what the library refuses or sees other tensors in it."""
    try:
        names = check(data)
    except TrustError:
        return False
    assert names == in_library(data)
    return True


def like(*good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what a field should be, at times anything."""
    odd = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=3)
    )
    return st.one_of(*good, *good, *good, odd)


small = st.integers(0, 9) | st.sampled_from([2**31, 2**32, 2**61, 2**63, 2**64])
infos = st.fixed_dictionaries(
    {
        "dtype": like(st.sampled_from([*safetensors.DTYPE_BITS, "u8", "OBJ"])),
        "shape": like(st.lists(small, max_size=3)),
        "data_offsets": like(st.lists(small, min_size=2, max_size=2)),
    },
    optional={"more": st.none()},
)
metadata = st.none() | st.dictionaries(st.text(max_size=3), like(st.text(max_size=3)), max_size=2)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), like(infos), max_size=3), metadata, st.booleans(), st.binary(max_size=40),
    st.none() | st.integers(0, 2**64 - 1),
)  # fmt: skip
@example({"a": {"dtype": "U8", "shape": [2**62, 4, 0], "data_offsets": [0, 0]}}, None, False, b"", None)
def test_no_header_passes_that_the_library_would_refuse(
    header: dict[str, Any], meta: Any, with_meta: bool, body: bytes, length: int | None
) -> None:
    agrees(packed({**header, "__metadata__": meta} if with_meta else header, body, length=length))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_no_bytes_break_the_check(data: bytes) -> None:
    agrees(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_changed_byte_never_fools_it(data: st.DataObject) -> None:
    good = packed(
        {"__metadata__": {"format": "pt"}, "a": tensor(0, 4), "b": tensor(4, 8, dtype="F16", shape=[2, 1])}, bytes(8)
    )
    assert agrees(good)
    at = data.draw(st.integers(0, len(good) - 1))
    agrees(good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :])


shapes = st.lists(st.integers(0, 5), max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4).filter(lambda n: n != "__metadata__"), shapes, max_size=5))
def test_every_sound_header_passes(tensors: dict[str, list[int]]) -> None:
    header, end = {}, 0
    for name, shape in tensors.items():
        header[name] = tensor(end, end := end + 4 * math.prod(shape), dtype="F32", shape=shape)
    assert agrees(packed(header, bytes(end)))
