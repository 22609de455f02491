"""From what a client sent to what a model server gets, and what that may cost at most. Pure, so that large bodies go to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from engine.gateway.configuration import ORDER, Class
from engine.gateway.worker.checks import fields_of
from engine.gateway.worker.fields import REQUIRED, TABLE
from engine.gateway.worker.reading import read
from engine.gateway.worker.refusal import Refusal, malformed

TEMPLATE_TOKENS = 64  # what a chat template may add beyond what the request's own JSON weighs
PROMPTS = {"completions": "prompt", "embeddings": "input"}
OUTPUT = {
    "chat": "max_completion_tokens",
    "completions": "max_tokens",
    "responses": "max_output_tokens",
    "messages": "max_tokens",
}
COMPLETION_TOKENS = 16  # what the API gives to a completion that names no number
STREAMS = frozenset(OUTPUT)


@dataclass(frozen=True)
class ModelTerms:
    """What holds for one tenant's requests to one model.

    Attributes:
        fits: the smallest token limit that applies; an answer of unstated length is cut to it.
    """

    upstream: str
    endpoints: frozenset[str]
    context_tokens: int
    output_tokens: int
    max_choices: int
    images: bool
    bytes_per_token: int
    fits: int | None = None


@dataclass(frozen=True)
class Terms:
    """What holds for the requests of one credential.

    Attributes:
        classes: of each class, ``stream_interval`` and ``priority`` as they are sent.
    """

    models: dict[str, ModelTerms]
    highest_class: Class
    classes: dict[str, dict[str, int]]
    cache_salt: str
    depth: int
    values: int


@dataclass(frozen=True)
class Prepared:
    """A request that may be sent.

    Attributes:
        hold: tokens to reserve. ceiling: tokens that it cannot exceed.
        usage: whether the client asked for usage in its stream; continuous: in each chunk.
    """

    model: str
    body: bytes
    stream: bool
    class_: Class
    hold: int
    ceiling: int
    output_tokens: int
    choices: int
    usage: bool = False
    continuous: bool = False
    interval: int = 1


def prepare(raw: bytes, endpoint: str, terms: Terms) -> Prepared:
    """Check a request and write it again with the gateway's own values.

    Raises:
        Refusal: with the field, where it is one.
    """
    given = read(raw, depth=terms.depth, values=terms.values)
    name, model = _model(given, endpoint, terms)
    body = fields_of(given, TABLE[model.images][endpoint], REQUIRED[endpoint], "")
    body["model"] = model.upstream
    class_ = _class(body.pop("service_tier", None), terms.highest_class)
    prompts = _prompts(body, endpoint)
    choices = prompts * _choices(body, model)
    weight = len(raw) + (_repeated(body) * (prompts - 1) if endpoint in ("rerank", "score") else 0)
    estimate = min(-(-weight // model.bytes_per_token), model.context_tokens * prompts)
    most = min(weight + TEMPLATE_TOKENS * prompts, model.context_tokens * prompts)
    output = _output(body, endpoint, model, estimate, choices) if endpoint in OUTPUT else 0
    if endpoint == "tokenize":
        estimate = most = 0
    else:
        body["cache_salt"] = terms.cache_salt
    asked, interval = _stream(body, endpoint, terms.classes[class_])
    if endpoint in STREAMS and "priority" in terms.classes[class_] and endpoint != "messages":
        body["priority"] = terms.classes[class_]["priority"]
    if endpoint == "responses":
        body["store"] = False
    return Prepared(
        name, orjson.dumps(body), bool(body.get("stream")), class_, estimate + output * choices, most + output * choices, output, choices,
        bool(asked.get("include_usage")), bool(asked.get("continuous_usage_stats")), interval,
    )  # fmt: skip


def _model(given: dict[str, Any], endpoint: str, terms: Terms) -> tuple[str, ModelTerms]:
    name = given.get("model")
    if type(name) is not str or not name:
        raise malformed("model is required and must be text.", "model", "missing_field")
    model = terms.models.get(name)
    if model is None:  # the same answer for one that exists and is not allowed
        raise Refusal(
            404,
            "model_not_found",
            "There is no model of this name for this credential; /v1/models lists those that there are.",
            "model",
        )
    if endpoint not in model.endpoints:
        raise Refusal(400, "unsupported_endpoint", "This model does not serve this endpoint.", "model")
    return name, model


def _class(asked: Any, highest: Class) -> Class:
    """A client may lower its class, never raise it."""
    return ORDER[-1] if asked == "flex" else highest


def _prompts(body: dict[str, Any], endpoint: str) -> int:
    if endpoint == "score" and not (
        ("text_1" in body and "text_2" in body) or ("queries" in body and "documents" in body)
    ):
        raise malformed("text_1 and text_2 are required.", "text_1", "missing_field")
    if endpoint == "tokenize" and ("prompt" in body) == ("messages" in body):
        raise malformed("Either prompt or messages is required.", "prompt", "missing_field")
    if endpoint in ("rerank", "score"):
        # Each pair of texts is a prompt of its own, in which the shorter side is repeated.
        sides = [
            len(body[k]) if type(body[k]) is list else 1
            for k in ("text_1", "text_2", "queries", "documents")
            if k in body
        ]
        return max(sides)
    found = body.get(PROMPTS.get(endpoint, ""))
    return len(found) if type(found) is list and type(found[0]) is not int else 1


def _repeated(body: dict[str, Any]) -> int:
    """Bytes of the side of a comparison that goes with each text of the other."""
    sides = [
        body[k] if type(body[k]) is list else [body[k]]
        for k in ("query", "text_1", "text_2", "queries", "documents")
        if k in body
    ]
    return sum(len(text.encode()) for text in min(sides, key=len))


def _choices(body: dict[str, Any], model: ModelTerms) -> int:
    n: int = body.get("n", 1)
    if n > model.max_choices:
        raise malformed(f"n must be a whole number from 1 to {model.max_choices} for this model.", "n")
    if n == 1:
        body.pop("n", None)
    body.pop("best_of", None)
    return n


def _output(body: dict[str, Any], endpoint: str, model: ModelTerms, estimate: int, choices: int) -> int:
    """Tokens of an answer; exactly one field says it to the model server."""
    field_ = OUTPUT[endpoint]
    spelled = (
        "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens" if "max_tokens" in body else field_
    )
    stated: int | None = body.get(spelled)
    body.pop("max_tokens", None)
    if stated is not None and stated > model.output_tokens:
        raise malformed(f"{spelled} must be at most {model.output_tokens} for this model.", spelled)
    if stated is None:
        stated = min(model.output_tokens, COMPLETION_TOKENS) if endpoint == "completions" else model.output_tokens
        if model.fits is not None and estimate + stated * choices > model.fits:
            stated = max(1, (model.fits - estimate) // choices)
    body[field_] = stated
    return stated


def _stream(body: dict[str, Any], endpoint: str, policy: dict[str, int]) -> tuple[dict[str, Any], int]:
    """What the client asked of its stream, and after how many tokens a chunk comes; the model server reports usage in each."""
    asked: dict[str, Any] = body.pop("stream_options", None) or {}
    if not body.get("stream"):
        body.pop("stream", None)
        return {}, 1
    if endpoint not in ("chat", "completions"):
        return {}, 1
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if "stream_interval" in policy:
        body["stream_interval"] = policy["stream_interval"]
    return asked, policy.get("stream_interval", 1)
