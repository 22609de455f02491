"""Reading the JSON of a request so that there is one reading of it: bounded in depth, parts and numbers, and written again afterwards."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from engine.gateway.worker.checks import INT64
from engine.gateway.worker.refusal import Refusal, malformed

LONG_NUMBER = re.compile(rb"[0-9]{19,}")


def read(raw: bytes, *, depth: int, values: int) -> dict[str, Any]:
    """The object that a request holds.

    Raises:
        Refusal: it is not strict JSON in UTF-8, not an object, nested too deeply, has too many parts, or an integer that does not fit into 64 bits.
    """
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > values:
        raise malformed(f"The request has more than {values} values.", code="too_many_values")
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise malformed("The request is not valid JSON in UTF-8.", code="invalid_json") from None
    if type(found) is not dict:
        raise malformed("The request must be a JSON object.", code="invalid_json")
    if raw.count(b"[") + raw.count(b"{") > depth and _depth(found) > depth:
        raise malformed(f"The request is nested deeper than {depth} levels.", code="too_deep")
    if LONG_NUMBER.search(
        raw
    ):  # rare outside of texts: orjson makes a float of what does not fit, another reader an integer
        _long_numbers(raw)
    return found


def _depth(found: Any) -> int:
    deepest, todo = 0, [(found, 1)]
    while todo:
        value, level = todo.pop()
        if type(value) in (dict, list):
            deepest = max(deepest, level)
            todo.extend((v, level + 1) for v in (value.values() if type(value) is dict else value))
    return deepest


def _long_numbers(raw: bytes) -> None:
    def integer(text: str) -> int:
        if len(text) > 20 or not -INT64 <= int(text) < INT64:
            raise _too_large()
        return 0

    try:
        json.loads(raw, parse_int=integer)
    except (ValueError, RecursionError):
        raise malformed("The request is not valid JSON in UTF-8.", code="invalid_json") from None


def _too_large() -> Refusal:
    return malformed("The request has an integer that does not fit into 64 bits.", code="invalid_value")
