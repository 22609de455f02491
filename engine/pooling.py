"""Models that do not generate: embeddings, and scores of documents for a question. What they are asked, and what counts as an answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from engine import strictjson

EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
Task = Literal["", "embed", "rerank"]  # empty for a model that generates
ENDPOINTS: Mapping[Task, str] = {"embed": EMBEDDINGS, "rerank": RERANK}
DOCUMENTS = 2


def question(task: Task, model: str, words: str) -> dict[str, Any]:
    """The body to send to ``ENDPOINTS[task]``."""
    if task == "embed":
        return {"model": model, "input": words}
    return {"model": model, "query": words, "documents": [words, "Something else."]}


def values(task: Task, raw: bytes) -> int:
    """How many numbers a good answer holds: the length of a vector, or one for each document.

    Raises:
        ValueError: it is not an answer to ``question``.
    """
    try:
        data = strictjson.loads(raw)
        found = data["data"][0]["embedding"] if task == "embed" else [r["relevance_score"] for r in data["results"]]
        numbers = [n for n in found if isinstance(n, int | float) and not isinstance(n, bool)]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("the answer holds no numbers") from error
    if len(numbers) != len(found) or not numbers or (task == "rerank" and len(numbers) != DOCUMENTS):
        raise ValueError("the answer does not hold the numbers that were asked for")
    return len(numbers)
