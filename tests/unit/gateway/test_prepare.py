"""What reaches a model server: only what is on the list, with the gateway's values, whatever a client sends."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.gateway.worker.fields import TABLE
from engine.gateway.worker.prepare import ModelTerms, Prepared, Terms, prepare
from engine.gateway.worker.refusal import Refusal

EVERY = frozenset(TABLE[False])
MODEL = ModelTerms("served", EVERY, 4096, 256, 2, False, 3)
CLASSES = {
    "interactive": {},
    "default": {"stream_interval": 4, "priority": 5},
    "batch": {"stream_interval": 8, "priority": 9},
}
TERMS = Terms({"tiny": MODEL}, "default", CLASSES, "5a17", 64, 10_000)
OURS = {
    "model",
    "cache_salt",
    "priority",
    "stream_options",
    "stream_interval",
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "store",
}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]}, "completions": {"prompt": "hi"}, "responses": {"input": "hi"},
    "messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}, "embeddings": {"input": "hi"},
    "rerank": {"query": "a", "documents": ["b", "c"]}, "score": {"text_1": "a", "text_2": ["b"]}, "tokenize": {"prompt": "hi"},
}  # fmt: skip


def _made(endpoint: str, terms: Terms = TERMS, /, **more: Any) -> Prepared:
    return prepare(json.dumps({"model": "tiny", **BODIES[endpoint], **more}).encode(), endpoint, terms)


def _sent(endpoint: str, terms: Terms = TERMS, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_made(endpoint, terms, **more).body)
    return found


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({name for fields in TABLE[True].values() for name in fields} | {
    "priority", "cache_salt", "kv_transfer_params", "request_id", "use_beam_search", "min_tokens", "chat_template", "vllm_xargs", "prompt_embeds",
})  # fmt: skip


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(EVERY)),
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), JSON_VALUES, max_size=4),
)
def test_whatever_comes_what_is_sent_is_on_the_list_with_our_values(endpoint: str, more: dict[str, Any]) -> None:
    raw = orjson.dumps({**BODIES[endpoint], **{k: v for k, v in more.items() if not _wide(v)}, "model": "tiny"})
    try:
        made = prepare(raw, endpoint, TERMS)
    except Refusal as refusal:
        assert refusal.status in (400, 404)
        return
    sent = json.loads(made.body)
    assert set(sent) <= set(TABLE[False][endpoint]) | OURS
    assert sent["model"] == "served"
    assert sent.get("cache_salt", "5a17") == "5a17"
    assert sent.get("priority", 5) in (5, 9)
    spelled = [sent[k] for k in ("max_completion_tokens", "max_tokens", "max_output_tokens") if k in sent]
    assert spelled == ([made.output_tokens] if made.output_tokens else [])
    assert 0 <= made.hold <= made.ceiling
    if made.stream and endpoint in ("chat", "completions"):
        assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def _wide(value: Any) -> bool:
    """Whether orjson cannot write it; clients can, and that is tested elsewhere."""
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


@pytest.mark.parametrize("name", ["priority", "cache_salt", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "request_id", "session_id",
    "use_beam_search", "ignore_eos", "min_tokens", "chat_template", "documents", "media_io_kwargs", "mm_processor_kwargs", "structured_outputs",
    "prompt_logprobs", "prompt_embeds", "thinking_token_budget", "stream_interval", "previous_input_messages", "x\u0000y"])  # fmt: skip
@pytest.mark.parametrize("endpoint", sorted(EVERY))
def test_a_field_that_is_not_on_the_list_is_refused_by_name(endpoint: str, name: str) -> None:
    if name in TABLE[False][endpoint]:
        assert (name, endpoint) in (("documents", "rerank"), ("documents", "score"))  # there they are what is compared
        return
    with pytest.raises(Refusal) as refused:
        prepare(json.dumps({"model": "tiny", **BODIES[endpoint], name: 1}).encode(), endpoint, TERMS)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "unsupported_field", name)


@pytest.mark.parametrize(
    ("more", "sent"),
    [
        ({"max_tokens": 9}, 9), ({"max_completion_tokens": 9}, 9), ({"max_tokens": 3, "max_completion_tokens": 9}, 9), ({}, 256), ({"max_tokens": None}, 256),
    ],
)  # fmt: skip
def test_every_spelling_of_the_length_becomes_one_that_is_reserved(more: dict[str, Any], sent: int) -> None:
    made = _made("chat", **more)
    body = json.loads(made.body)
    assert ("max_tokens" in body, body["max_completion_tokens"], made.output_tokens) == (False, sent, sent)
    assert made.hold >= sent


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 257},
        {"max_completion_tokens": 10**9},
        {"max_tokens": 0},
        {"max_tokens": "5"},
        {"max_tokens": 5.0},
        {"max_tokens": True},
    ],
)
def test_a_length_beyond_the_model_s_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        _made("chat", **more)
    assert refused.value.param == next(iter(more))


def test_choices_and_prompts_multiply_the_reserve() -> None:
    one, two = _made("chat", max_tokens=100), _made("chat", max_tokens=100, n=2)
    assert two.hold - one.hold >= 100
    assert _made("completions", prompt=["a", "b", "c"], max_tokens=10).choices == 3
    assert _made("completions", prompt=[1, 2, 3]).choices == 1
    assert _made("completions", prompt=[[1, 2], [3]]).choices == 2
    with pytest.raises(Refusal, match="n must be"):
        _made("chat", n=3)


def test_the_shorter_side_of_a_comparison_counts_with_each_text() -> None:
    query = "q" * 1000
    few, many = (_made("rerank", query=query, documents=["d"] * count) for count in (1, 100))
    assert many.ceiling - few.ceiling > 99 * 1000


def test_a_length_that_nobody_stated_is_cut_to_what_the_limit_holds() -> None:
    terms = Terms(
        {"tiny": ModelTerms("served", EVERY, 4096, 256, 1, False, 3, fits=100)}, "default", CLASSES, "s", 64, 10_000
    )
    assert _made("chat", terms).hold == 100
    assert _made("chat", terms, max_tokens=200).hold > 100  # stated: the ledger refuses it with the reason


@pytest.mark.parametrize(
    ("asked", "class_"), [(None, "default"), ("auto", "default"), ("default", "default"), ("flex", "batch")]
)
def test_a_client_lowers_its_class_and_never_raises_it(asked: str | None, class_: str) -> None:
    made = _made("chat", service_tier=asked, stream=True)
    sent = json.loads(made.body)
    assert (made.class_, sent["stream_interval"], sent["priority"], "service_tier" in sent) == (
        class_,
        CLASSES[class_]["stream_interval"],
        CLASSES[class_]["priority"],
        False,
    )
    with pytest.raises(Refusal):
        _made("chat", service_tier="priority")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}, {"type": "audio_url", "audio_url": {"url": "x"}},
        {"type": "input_audio", "input_audio": {}}, {"type": "video_url", "video_url": {}}, {"type": "image_embeds", "image_embeds": "x"}, {"type": "text"}, {}, 5,
        {**IMAGE, "uuid": "x"},
    ],
)  # fmt: skip
def test_nothing_is_fetched_for_a_client(part: Any) -> None:
    takes = Terms({"tiny": ModelTerms("served", EVERY, 4096, 256, 1, True, 3)}, "default", CLASSES, "s", 64, 10_000)
    assert _sent("chat", takes, messages=[{"role": "user", "content": [IMAGE]}])["messages"][0]["content"] == [IMAGE]
    with pytest.raises(Refusal):
        _made("chat", messages=[{"role": "user", "content": [IMAGE]}])  # this model takes no images
    with pytest.raises(Refusal):
        _made("chat", takes, messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    "path", ["messages.0.surplus", "tools.0.surplus", "response_format.surplus", "stream_options.surplus"]
)
def test_fields_inside_are_checked_too(path: str) -> None:
    whole: dict[str, Any] = {
        "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "text"}, "stream_options": {},
    }  # fmt: skip
    inner = whole[path.split(".", maxsplit=1)[0]]
    (inner[0] if type(inner) is list else inner)["surplus"] = 1
    with pytest.raises(Refusal) as refused:
        _made("chat", **whole)
    assert refused.value.param == path


@pytest.mark.parametrize("digits", ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" * 5000])
def test_numbers_of_two_readings_are_refused_and_long_ones_in_texts_are_not(digits: str) -> None:
    with pytest.raises(Refusal, match=r"64 bits|not valid JSON"):
        prepare(
            f'{{"model":"tiny","messages":[{{"role":"user","content":"x"}}],"seed":{digits}}}'.encode(), "chat", TERMS
        )
    assert _made("chat", messages=[{"role": "user", "content": digits}]).body


def test_the_last_of_two_equal_keys_counts_and_is_the_only_one_sent() -> None:
    raw = b'{"model":"tiny","max_tokens":200,"max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
    made = prepare(raw, "chat", TERMS)
    assert (made.output_tokens, json.loads(made.body)["max_completion_tokens"]) == (5, 5)
