"""Models that make numbers: what counts as an answer, and that a service says it in one place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine import pooling
from engine.pooling import Task
from installer.site import services
from installer.site.rules import serving
from installer.site.settings import Service, Site


@pytest.mark.parametrize(
    ("task", "answer", "numbers"),
    [
        ("embed", {"data": [{"embedding": [0.1, -2, 3e-4]}]}, 3),
        ("rerank", {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}, 2),
    ],
)
def test_numbers_are_an_answer(task: Task, answer: dict[str, Any], numbers: int) -> None:
    assert pooling.values(task, json.dumps(answer).encode()) == numbers


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("embed", '{"data": [{"embedding": []}]}'),
        ("embed", '{"data": [{"embedding": [1, NaN]}]}'),
        ("embed", '{"data": [{"embedding": [1, "2"]}]}'),
        ("embed", '{"data": [{"embedding": [true]}]}'),
        ("embed", '{"data": []}'),
        ("embed", '{"choices": [{"text": "hello"}]}'),
        ("embed", "[]"),
        ("embed", '{"data": [{"embedding": 7}]}'),
        ("rerank", '{"results": [{"relevance_score": 0.9}]}'),
        ("rerank", '{"results": [{"score": 0.9}, {"score": 0.1}]}'),
        ("rerank", '{"results": {"a": 1}}'),
        ("rerank", "no JSON"),
    ],
)
def test_anything_else_is_none(task: Task, answer: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pooling.values(task, answer.encode())


def service(**more: Any) -> Service:
    return Service.model_validate({"name": "s", "model": "m", "served_name": "m", **more})


def test_the_flags_follow_from_the_task() -> None:
    assert services.flags(service(task="embed"), "/m") == {"runner": "pooling", "convert": "embed"}
    assert services.flags(service(task="rerank"), "/m") == {"runner": "pooling"}
    assert services.flags(service(task="embed", args={"convert": "none"}), "/m") == {
        "runner": "pooling",
        "convert": "none",
    }
    assert services.flags(service(), "/m") == {}


def test_a_flag_that_the_task_stands_for_is_refused_beside_it() -> None:
    site = Site.model_validate(
        {"control": {"address": "192.0.2.1"}, "management_sources": ["192.0.2.0/24"],
         "services": [{"name": "s", "model": "m", "served_name": "m", "task": "embed", "args": {"runner": "generate"}}]}
    )  # fmt: skip
    (fault,) = list(serving._alone(("services", 0), site.services[0]))
    assert fault.key[-1] == "runner" and "task" in fault.what + fault.remedy
