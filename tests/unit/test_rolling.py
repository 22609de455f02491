"""How a change walks through the nodes: the arithmetic of batches, and when they must not begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.site import rolling
from installer.site.rolling import Policy, count, limit, obstacle, plan, too_many

CHAT = frozenset({"chat"})
NONE = frozenset[str]()


@pytest.mark.parametrize(
    ("share", "total", "nodes"),
    [(1, 10, 1), (3, 10, 3), ("25%", 4, 1), ("25%", 8, 2), ("25%", 7, 1), ("1%", 10, 1), ("100%", 3, 3), ("50%", 5, 2)],
)
def test_a_share_means_whole_nodes_and_at_least_one(share: int | str, total: int, nodes: int) -> None:
    assert count(share, total) == nodes


def test_batches_follow_the_list_and_its_last_repeats() -> None:
    nodes = [f"n{i}" for i in range(8)]
    made = plan(nodes, {}, Policy(batches=(1, "25%", 3)), 8).batches
    assert [len(b) for b in made] == [1, 2, 3, 2]
    assert [n for b in made for n in b] == nodes


def test_no_batch_is_larger_than_what_may_be_out_at_once() -> None:
    made = plan([f"n{i}" for i in range(6)], {}, Policy(batches=(4,), max_unavailable="34%"), 6).batches
    assert [len(b) for b in made] == [2, 2, 2]


def test_two_nodes_of_one_service_never_share_a_batch_unless_allowed() -> None:
    serving = {"a": CHAT, "b": CHAT, "c": frozenset({"code"}), "d": NONE}
    assert plan(list("abcd"), serving, Policy(batches=(4,)), 4).batches == (("a", "c", "d"), ("b",))
    assert plan(list("abcd"), serving, Policy(batches=(4,), per_service=2), 4).batches == (("a", "b", "c", "d"),)


def test_who_is_out_already_counts_against_every_batch() -> None:
    rules = Policy(batches=(1,), max_unavailable=1, per_service=5)
    assert obstacle(["b"], {"b": CHAT}, {}, rules, 3) == ""
    assert "1 nodes are out of service (a)" in obstacle(["b"], {"b": CHAT}, {"a": CHAT}, rules, 3)
    # One that is out and comes back with this batch is no obstacle, and neither is a batch that takes nothing out.
    assert obstacle(["a"], {"a": CHAT}, {"a": CHAT}, rules, 3) == ""
    assert obstacle(["b"], {"b": NONE}, {"a": CHAT}, rules, 3) == ""


def test_a_service_that_lost_a_node_already_loses_no_other() -> None:
    rules = Policy(batches=(2,), max_unavailable=4, per_service=1)
    assert "chat is served by one node less already (a)" in obstacle(["b"], {"b": CHAT}, {"a": CHAT}, rules, 4)
    assert obstacle(["b"], {"b": frozenset({"code"})}, {"a": CHAT}, rules, 4) == ""


@pytest.mark.parametrize(
    ("failed", "total", "percent", "stops"),
    [(0, 4, 0, False), (1, 4, 0, True), (1, 10, 10, False), (2, 10, 10, True), (1, 4, 24, True), (1, 4, 25, False), (4, 4, 100, False)],
)  # fmt: skip
def test_failures_stop_the_rest_above_the_share_and_not_at_it(
    failed: int, total: int, percent: int, stops: bool
) -> None:
    assert too_many(failed, total, Policy(max_failed_percent=percent)) is stops


@given(
    st.lists(st.tuples(st.sampled_from(["chat", "code", ""]), st.booleans()), max_size=24),
    st.lists(st.integers(1, 6) | st.integers(1, 100).map(lambda p: f"{p}%"), min_size=1, max_size=3),
    st.none() | st.integers(1, 5),
    st.integers(1, 3),
)
def test_every_node_is_in_one_batch_and_no_batch_breaks_the_policy(
    kinds: list[tuple[str, bool]], sizes: list[int | str], most: int | None, per_service: int
) -> None:
    nodes = [f"n{i}" for i in range(len(kinds))]
    serving = {
        n: frozenset({service} - {""}) if serves else NONE for n, (service, serves) in zip(nodes, kinds, strict=True)
    }
    rules = Policy(tuple(sizes), 0, most, per_service)
    made = plan(nodes, serving, rules, len(nodes)).batches
    assert sorted(n for b in made for n in b) == sorted(nodes)
    for batch in made:
        assert batch
        assert len(batch) <= limit(rules, len(nodes))
        assert obstacle(batch, serving, {}, rules, len(nodes)) == ""
        for service in ("chat", "code"):
            assert sum(service in serving[n] for n in batch) <= per_service


def test_the_default_is_one_node_after_the_other() -> None:
    assert plan(["a", "b"], {"a": CHAT, "b": CHAT}, rolling.Policy(), 2).batches == (("a",), ("b",))
