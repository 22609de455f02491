"""The gate of an upgrade: what passes and what does not, on measurements written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.gate import Health, Measurement, Said, can_end_it, compare, faster, worse

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


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("one two three", ""),
        ("one two", ""),  # said more than before
        ("one deux trois", "token 2 is ' two' and was ' deux', which is now 2.80 nats less likely"),
        ("one zwei drei", "token 2 is ' two' and was ' zwei drei', which is not among"),
        ("one two three four", "has 3 tokens, 4 before"),
    ],
)
def test_a_text_without_likelihoods_is_compared_in_the_tokens_that_came(text: str, word: str) -> None:
    """What a service said that could not be asked for more."""
    before = replace(BEFORE, said=(Said((text,)),))
    after = replace(BEFORE, said=said("one", " two", " three", likely={" two": -0.2, " deux": -3.0, " d": -3.1}))
    found = compare(before, after, share=0.8, max_gap=0.5)
    assert word in found[0] if word else found == []
    assert compare(before, after, share=0.8, max_gap=3.0) == [] or "deux" not in text


@pytest.mark.parametrize(
    ("disabled", "compiler", "ends"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_who_cannot_compile_is_not_asked_for_likelihoods(
    tmp_path: Path, disabled: bool, compiler: bool, ends: bool
) -> None:
    unit = tmp_path / "etc/systemd/system/appliance-vllm@chat.service.d/instance.conf"
    for path, text in (
        (tmp_path / "etc/appliance/vllm/chat.yaml", "model: x\n"),
        (unit, "[Service]\n" + ("Environment=TORCHDYNAMO_DISABLE=1\n" if disabled else "")),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    if compiler:
        (tmp_path / "usr/bin").mkdir(parents=True)
        (tmp_path / "usr/bin/g++").touch()
    assert can_end_it("chat", tmp_path) is ends


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


@pytest.mark.parametrize(
    ("rounds", "best", "asked"),
    [([90.0], 90.0, 1), ([70.0, 85.0], 85.0, 2), ([60.0] * 6, 70.0, 6)],
)
def test_a_busy_moment_is_measured_again_and_a_slow_model_is_still_refused(
    monkeypatch: pytest.MonkeyPatch, rounds: list[float], best: float, asked: int
) -> None:
    left = list(rounds)
    pauses: list[float] = []
    monkeypatch.setattr("engine.gate._throughput", lambda *_: left.pop(0))
    monkeypatch.setattr("engine.gate.time.sleep", pauses.append)
    now = faster(Path("socket"), replace(BEFORE, throughput=70.0), 80.0, requests=4, tokens=8, timeout_s=1)
    assert now.throughput == best
    assert pauses == [5.0] * asked
    assert (compare(BEFORE, now, share=0.8, max_gap=0.5) == []) is (best >= 80.0)
