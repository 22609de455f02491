"""Every target under hypothesis: seeds as they are, then mutated and with fields of their JSON exchanged."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fields
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
    if not (seed := fields.read(data)) or not (spots := seed.spots()):
        return None
    holder, key = draw(st.sampled_from(range(len(spots))).map(spots.__getitem__))
    value = draw(st.sampled_from(fields.HOSTILE))
    as_key = isinstance(value, str) and isinstance(holder, dict) and draw(st.booleans())
    return seed.exchanged(holder, key, value, as_key=as_key)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_are_refused_or_harmless(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    for seed in (*seeds, b""):
        target.run(seed)

    @settings(
        max_examples=EXAMPLES.get(name, 100), deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated(seeds))
    def run(data: bytes) -> None:
        target.run(data)

    run()


# Inputs for a target: of every run, with less than a second for the slowest, and of the slow one.
SWEPT = [pytest.param(100, id="some"), pytest.param(1000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("swept", SWEPT)
@pytest.mark.parametrize("name", TARGETS)
def test_no_field_can_be_anything_that_breaks_its_reader(name: str, swept: int) -> None:
    """Chance finds a bad pair of field and value late; here every one has its turn, or every n-th of a big seed."""
    every = [data for seed in TARGETS[name].seeds() if (read := fields.read(seed)) for data in read.all()]
    step = max(1, len(every) // swept) | 1  # odd, so that no value is always passed over
    for data in every[::step]:
        TARGETS[name].run(data)
