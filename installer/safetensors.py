"""Checks the header of a safetensors file before anything maps its tensors.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, little-endian; a JSON
object of tensors; the tensors' bytes, back to back. What passes here is a subset of what the format's own library reads.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO, NoReturn

from engine.errors import TrustError

HEADER_LIMIT = 32 << 20  # bytes, enough for 250 000 tensors; the library's own limit is 100 MB
PARTS_LIMIT = 4_000_000  # values, lists and tables; a tensor has eight. Ten bytes of text become a hundred of memory.
SIZE_LIMIT = 1 << 63  # bits or bytes; a product of dimensions beyond this overflows in readers
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
Span = tuple[int, int, str]  # first byte, byte after the last, tensor


def start_size(first: bytes, size: int, name: str) -> int:
    """Bytes from the file's begin to its first tensor, from its first eight bytes.

    Args:
        size: of the whole file in bytes.
        name: of the file, for messages.

    Raises:
        TrustError: the length cannot be right.
    """
    if len(first) < 8 or size < 8:
        _refuse(name, "it is too short to have a header")
    length = int.from_bytes(first[:8], "little")
    if length > HEADER_LIMIT:
        _refuse(name, f"its header claims {length} bytes; {HEADER_LIMIT} are allowed")
    if length > size - 8:
        _refuse(name, f"its header claims {length} bytes; the file has {size - 8} after the length")
    return 8 + length


def check(file: BinaryIO, size: int, name: str) -> frozenset[str]:
    """Check the header and return the tensors' names. Reads no further than the header.

    Args:
        file: open at the begin; what follows the header need not be there.
        size: of the whole file in bytes.
        name: of the file, for messages.

    Raises:
        TrustError: names the file and what is wrong with it.
    """
    start = start_size(first := file.read(8), size, name)
    raw = file.read(start - 8)
    if len(first) + len(raw) != start:
        _refuse(name, "its header ends early")
    header = _parse(raw, name)
    _check_metadata(header.pop("__metadata__", None), name)
    spans = sorted(_span(tensor, info, name) for tensor, info in header.items())
    end, before = 0, ""
    for first_byte, after, tensor in spans:
        if first_byte < end:
            _refuse(name, f"tensor {_short(tensor)} overlaps {_short(before)}")
        if first_byte > end:
            _refuse(name, f"{first_byte - end} bytes before tensor {_short(tensor)} belong to no tensor")
        end, before = after, tensor
    if start + end != size:
        _refuse(name, f"header and tensors take {start + end} bytes; the file has {size}")
    return frozenset(header)


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        _refuse(name, "its header does not begin with a JSON object")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > PARTS_LIMIT:
        _refuse(name, f"its header has more than {PARTS_LIMIT} parts")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        _refuse(name, "its header is nested too deeply")
    except ValueError as error:
        _refuse(name, f"its header is not strict JSON: {error}")
    return header if isinstance(header, dict) else {}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    for key in made:
        key.encode()  # half a surrogate pair is no text; UnicodeEncodeError is a ValueError
    return made


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_metadata(metadata: Any, name: str) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(name, "__metadata__ is not a table of texts")
    try:
        "".join(metadata.values()).encode()
    except UnicodeEncodeError:
        _refuse(name, "__metadata__ holds what is no text")


def _span(tensor: str, info: Any, name: str) -> Span:
    """Where the tensor's bytes lie behind the header, once its fields agree with each other."""
    what = f"tensor {_short(tensor)}"
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(name, f"{what} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _refuse(name, f"{what} has an unknown dtype {_short(str(dtype))}")
    if not _naturals(shape):
        _refuse(name, f"{what} has a shape that is not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(name, f"{what} has data_offsets that are not a begin and an end")
    bits = DTYPE_BITS[dtype]
    for dimension in shape:
        bits *= dimension
        if bits >= SIZE_LIMIT:
            _refuse(name, f"{what} has a shape too large for any file")
    if bits != 8 * (offsets[1] - offsets[0]):
        _refuse(name, f"{what} needs {bits / 8:g} bytes by dtype and shape, its offsets span {offsets[1] - offsets[0]}")
    return offsets[0], offsets[1], tensor


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < SIZE_LIMIT for v in value)


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:80]}...")


def _refuse(name: str, reason: str) -> NoReturn:
    raise TrustError(
        f"not a sound safetensors file: {reason}",
        where=name,
        remedy="Get the file again from its publisher; there is no waiver for this.",
    )
