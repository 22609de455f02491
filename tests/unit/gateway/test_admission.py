"""Slots and queues: never more run than fit, each class in order, batch never starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.configuration import ORDER, Class, Classes, ClassPolicy
from engine.gateway.ledger.admission import Admission

CLASSES = Classes(
    interactive=ClassPolicy(queue_s=10), default=ClassPolicy(queue_s=20), batch=ClassPolicy(share_percent=50, minimum_slots=1, queue_s=600),
)  # fmt: skip


def test_waiting_requests_run_in_the_order_they_came() -> None:
    admission = Admission(CLASSES)
    assert [admission.offer(f"r{i}", "m", "default", 1, i) for i in range(4)] == ["run", "wait", "wait", "wait"]
    order: list[str] = []
    for rid in ("r0", "r1", "r2"):
        admission.release(rid)
        order += admission.grant("m", 1)
    assert order == ["r1", "r2", "r3"]


def test_higher_classes_go_first_and_batch_keeps_its_trickle() -> None:
    admission = Admission(CLASSES)
    for i in range(4):
        admission.offer(f"i{i}", "m", "interactive", 2, 0)
        admission.offer(f"b{i}", "m", "batch", 2, 0)
    # i0 and b0 run; the rest waits. Batch has its minimum, so interactive goes first.
    admission.release("i0")
    assert list(admission.grant("m", 2)) == ["i1"]
    admission.release("b0")
    assert list(admission.grant("m", 2)) == ["b1"]  # below its minimum, it goes before those that wait above it


def test_batch_never_holds_more_than_its_share() -> None:
    admission = Admission(CLASSES)
    assert [admission.offer(f"b{i}", "m", "batch", 8, 0) for i in range(6)] == ["run"] * 4 + ["wait"] * 2
    assert admission.offer("i", "m", "interactive", 8, 0) == "run"


def test_a_deadline_ends_the_wait_and_frees_the_place() -> None:
    admission = Admission(CLASSES)
    admission.offer("run", "m", "interactive", 1, 0)
    admission.offer("wait", "m", "interactive", 1, 0)
    assert admission.expired(9.9) == []
    assert admission.expired(10) == ["wait"]
    admission.release("run")
    assert list(admission.grant("m", 1)) == []


def test_a_full_queue_refuses() -> None:
    admission = Admission(Classes(default=ClassPolicy(queue_length=1)))
    assert [admission.offer(f"r{i}", "m", "default", 1, 0) for i in range(3)] == ["run", "wait", "full"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "release", "late"]), st.integers(0, 30), st.sampled_from(ORDER)),
        max_size=120,
    ),
    st.integers(2, 6),
)
def test_slots_are_never_exceeded_and_nobody_is_forgotten(steps: list[tuple[str, int, Class]], slots: int) -> None:
    admission, running, waiting, now = Admission(CLASSES), set[str](), set[str](), 0.0
    for what, number, class_ in steps:
        rid, now = f"{class_}{number}", now + 1
        if what == "offer" and rid not in running | waiting:
            verdict = admission.offer(rid, "m", class_, slots, now)
            {"run": running, "wait": waiting}[verdict].add(rid)
        elif what == "release":
            admission.release(rid)
            running.discard(rid)
            waiting.discard(rid)
        elif what == "late":
            waiting -= set(admission.expired(now))
        granted = set(admission.grant("m", slots))
        assert granted <= waiting
        waiting -= granted
        running |= granted
        assert admission.counts("m") == (len(running), len(waiting))
        assert len(running) <= slots
        assert not waiting or len(running) == slots or all(w.startswith("batch") for w in waiting)
