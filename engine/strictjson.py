"""JSON of strangers. Python's reader takes more than the standard does, and some of it breaks whoever uses the values:

numbers that are none or no finite ones (`int()` of them is no ValueError), halves of surrogate pairs (no text: writing them
down fails), the same key twice (two readers see two documents), and small texts that become gigabytes of objects.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

# An object costs some 60 to 100 bytes, so this is a few hundred MiB at worst. A tokenizer of 260 000 words has 2 million.
MAX_PARTS = 4_000_000
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(raw: bytes, *, max_parts: int = MAX_PARTS) -> Any:
    """One JSON document (RFC 8259, UTF-8) of at most ``max_parts`` values.

    Raises:
        ValueError: it is not strict JSON, or nested too deeply, or has too many parts. Nothing else.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > max_parts:
        raise ValueError(f"it has more than {max_parts} parts")
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        if SURROGATE.search(raw):
            json.dumps(found, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
