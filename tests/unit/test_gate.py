"""The gate of an upgrade: what passes and what does not, on measurements written down here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.gate import Health, Measurement, Said, compare, worse

BEFORE = Measurement(
    "m",
    (Said(("one", " two", " three"), ({"one": -0.1}, {" two": -0.2}, {" three": -0.3})),),
    100.0,
    Health("580.1", ("[12.0] NVRM: Xid (PCI:1): 13",), {"GPU-a": 0}, {"GPU-a": 3}),
)


def said(*tokens: str, likely: dict[str, float] | None = None) -> tuple[Said, ...]:
    tops = [{t: -0.1} for t in tokens]
    if likely:
        tops[1] = likely
    return (Said(tokens, tuple(tops)),)


def test_the_same_passes() -> None:
    assert compare(BEFORE, BEFORE, share=0.8, max_gap=0.5) == []


def test_a_near_tie_passes_and_a_different_opinion_does_not() -> None:
    near = replace(BEFORE, said=said("one", " deux", " x", likely={" deux": -0.6, " two": -0.9}))
    far = replace(BEFORE, said=said("one", " deux", " x", likely={" deux": -0.1, " two": -3.0}))
    gone = replace(BEFORE, said=said("one", " deux", " x", likely={" deux": -0.1}))
    assert compare(BEFORE, near, share=0.8, max_gap=0.5) == []
    assert (
        "' deux' and was ' two', which is now 2.90 nats less likely" in compare(BEFORE, far, share=0.8, max_gap=0.5)[0]
    )
    assert "not among the 5 likeliest" in compare(BEFORE, gone, share=0.8, max_gap=0.5)[0]


def test_a_shorter_answer_does_not_pass() -> None:
    assert (
        "has 2 tokens, 3 before"
        in compare(BEFORE, replace(BEFORE, said=said("one", " two")), share=0.8, max_gap=0.5)[0]
    )


@pytest.mark.parametrize(("throughput", "passes"), [(100.0, True), (80.0, True), (79.9, False), (500.0, True)])
def test_throughput_is_compared_with_the_nodes_own(throughput: float, passes: bool) -> None:
    assert (compare(BEFORE, replace(BEFORE, throughput=throughput), share=0.8, max_gap=0.5) == []) is passes


def test_gpus_must_not_get_worse() -> None:
    old = BEFORE.health
    assert worse(old, replace(old, driver="595.1")) == []
    assert "Xid" in worse(old, replace(old, xids=(*old.xids, "[99.0] NVRM: Xid (PCI:1): 79")))[0]
    assert "1 uncorrected memory errors, 0 before" in worse(old, replace(old, uncorrected={"GPU-a": 1}))[0]
    assert "is gone" in worse(old, replace(old, uncorrected={}))[0]
    assert "state 2, 3 before" in worse(old, replace(old, fabric={"GPU-a": 2}))[0]
