"""Every target under hypothesis: seeds as they are, then mutated and with fields of their JSON exchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.all import TARGETS

EXAMPLES = {
    "http": 15,
    "metadata": 40,
    "given_root": 40,
    "listing": 30,
    "yaml_file": 40,
    "template": 60,
    "volume_index": 40,
    "private_key": 40,
    "next_root": 80,
}
HOSTILE: list[Any] = [
    None, True, -1, 0, 1 << 63, 10**400, 1e308, "", "../../x", "/etc/passwd", "\ud800", "a\x00b", "x" * 5000,
    [], {}, [[]], {"a": {}}, ["\u202e"],
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid input with a few bytes flipped, cut, doubled or inserted, or with one JSON field made hostile."""
    data = draw(st.sampled_from(seeds))
    if draw(st.booleans()) and (hostile := _fields(draw, data)) is not None:
        return hostile
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("flip", "cut", "double", "insert", "deep", "digits"))):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "double":
                data = data[:at] + data[max(0, at - 40) :]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
            case "deep":
                data = data[:at] + draw(st.sampled_from((b"[", b'{"a":', b"((", b"- "))) * 3000 + data[at:]
            case "digits":
                data = data[:at] + b"9" * 5000 + data[at:]
    return data


def _fields(draw: st.DrawFn, data: bytes) -> bytes | None:
    """The same JSON with one value somewhere in it replaced; None when it is no JSON."""
    prefix, body = (data[:1], data[1:]) if data[:1] < b" " else (b"", data)
    try:
        tree = json.loads(body)
    except ValueError:
        return None
    spots: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        keys = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        spots += [(here, key) for key in keys]
        waiting += [here[key] for key in keys]
    if not spots:
        return None
    holder, key = draw(st.sampled_from(range(len(spots))).map(spots.__getitem__))
    value = draw(st.sampled_from(HOSTILE))
    if isinstance(value, int) and value > 1 << 64:
        holder[key] = "BIG"
        return prefix + json.dumps(tree).encode().replace(b'"BIG"', str(value).encode())
    if isinstance(value, str) and isinstance(holder, dict) and draw(st.booleans()):
        holder[value] = holder.pop(key)
    else:
        holder[key] = value
    return prefix + json.dumps(tree).encode()


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_are_refused_or_harmless(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in (*seeds, b""):
        target.run(seed)

    @settings(
        max_examples=EXAMPLES.get(name, 150), deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated(seeds))
    def run(data: bytes) -> None:
        target.run(data)

    run()
