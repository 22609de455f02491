"""Which state a rollback means, when a node keeps several of each release."""

from __future__ import annotations

from typing import Any

import pytest

from installer.site.aim import aim

# A site that was installed, mended, upgraded, and whose settings were changed twice since.
KEPT = [(1, "demo-1.0.0"), (2, "demo-1.0.0"), (3, "demo-1.1.0"), (4, "demo-1.1.0"), (5, "demo-1.1.0")]


def told(current: int, kept: list[tuple[int, str]] = KEPT) -> dict[str, Any]:
    states = [{"number": n, "release": r, "made": f"2026-11-30T10:0{n}:00+00:00"} for n, r in kept]
    return {"current": current, "generations": states}


@pytest.mark.parametrize(
    ("current", "to", "number"),
    [
        (5, "previous", 2),  # the release before, not one more state of this one
        (3, "previous", 2),
        (5, "demo-1.1.0", 5),
        (2, "demo-1.1.0", 5),
        (5, "demo-1.0.0", 2),
        (5, "4", 4),
    ],
)
def test_the_state_that_is_meant(current: int, to: str, number: int) -> None:
    found = aim(told(current), to)
    assert found.to is not None and found.now is not None
    assert (found.now.number, found.to.number) == (current, number)


def test_a_state_is_told_with_release_and_time() -> None:
    assert str(aim(told(5), "previous").to) == "generation 2 (demo-1.0.0, kept 2026-11-30 10:02)"


@pytest.mark.parametrize(
    ("answer", "to", "why"),
    [
        (told(2), "previous", "no release before demo-1.0.0, but generation 1 (demo-1.0.0"),
        (told(5), "demo-9", "no state of demo-9, but generation 1"),
        (told(5), "9", "no generation 9, but generation 1"),
        (told(0), "previous", "no state of what runs now"),
        ({"current": 1, "generations": [1, None, {"number": "x"}]}, "previous", "no state of what runs now"),
        ({}, "previous", "no state of what runs now"),
    ],
)
def test_what_a_node_does_not_keep_is_named(answer: dict[str, Any], to: str, why: str) -> None:
    found = aim(answer, to)
    assert found.to is None and why in found.why


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        (None, ""),  # an engine from before it said so
        ([], "no file differs"),
        (["/opt/appliance/current"], "1 file differs: /opt/appliance/current"),
        ([f"/etc/appliance/{n}" for n in range(6)], "6 files differ: /etc/appliance/0, /etc/appliance/1, "),
    ],
)
def test_what_a_step_changes_is_told(differs: list[str] | None, words: str) -> None:
    answer = told(5)
    answer["generations"][1] |= {} if differs is None else {"differs": differs}
    said = aim(answer, "previous").difference
    assert said.startswith(words) and bool(said) == bool(words)
    assert said.endswith("and 2 more") == (differs is not None and len(differs) == 6)
