"""Check a safetensors file without loading it.

The format: eight bytes with the header's length (little endian), a JSON header, then the tensors' bytes. Source of the
rules: the format's description in the safetensors repository (header at most 100 MB, offsets without holes or overlap).
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

from engine.errors import TrustError

MAX_HEADER = 100_000_000  # bytes
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


def check(file: BinaryIO, size: int, name: str) -> int:
    """Number of tensors in the file, if it is what the format says.

    Args:
        size: bytes of the whole file.
        name: for messages.

    Raises:
        TrustError: with the reason.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise _refused(name, f"its header claims {length} bytes in a file of {size}")
    header = _parse(file.read(length), name)
    header.pop("__metadata__", None)
    spans = sorted(_span(tensor, entry, name) for tensor, entry in header.items())
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise _refused(name, f"tensors overlap or leave a hole at byte {end}")
        end = stop
    if 8 + length + end != size:
        raise _refused(name, f"its tensors end at byte {8 + length + end} of {size}")
    return len(spans)


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _refused(name, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _refused(name, "its header is not an object")
    return header


def _span(tensor: str, entry: Any, name: str) -> tuple[int, int]:
    """Begin and end of a tensor's bytes, checked against its type and shape."""
    try:
        bits, shape, (begin, end) = BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        good = all(type(n) is int and n >= 0 for n in numbers) and (end - begin) * 8 == math.prod(shape) * bits
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(name, f"the entry of {tensor[:80]!r} is malformed") from error
    if not good:
        raise _refused(name, f"the size of {tensor[:80]!r} does not fit its type and shape")
    return begin, end


def _refused(name: str, why: str) -> TrustError:
    return TrustError(
        f"not a sound safetensors file: {why}",
        where=name,
        remedy="Get the file again from its source; no waiver is possible.",
    )
