"""Which fields of a request reach a model server, by endpoint: a list of what is allowed, for vLLM takes many that a client must not set.

Checked against vLLM 0.32 (its protocol modules): everything that is not here is refused by name, among it ``priority``, ``cache_salt``,
``request_id``, ``session_id``, ``kv_transfer_params``, ``ec_transfer_params``, ``vllm_xargs``, ``use_beam_search``, ``ignore_eos``,
``min_tokens``, ``chat_template``, ``documents``, ``media_io_kwargs``, ``mm_processor_kwargs``, ``structured_outputs``,
``prompt_logprobs``, ``prompt_embeds``, ``thinking_token_budget``, ``stream_interval`` and ``previous_response_id``.
"""

from __future__ import annotations

import re
from typing import Any

from engine.gateway.worker.checks import (
    INT64,
    Check,
    anything,
    boolean,
    by,
    dropped,
    either,
    integer,
    items,
    mapping,
    never,
    number,
    one_of,
    refuse,
    shape,
    text,
)  # fmt: skip
from engine.gateway.worker.refusal import malformed

MANY, TOKEN = 1 << 20, (1 << 31) - 1
NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
DATA_IMAGE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,")
LINKS = "the model server fetches nothing; send the content itself"


def name(value: Any, at: str) -> Any:
    if type(value) is not str or not NAME.fullmatch(value):
        raise refuse(at, "a name of letters, digits, '_', '.', ':' and '-'")
    return value


def stops(value: Any, at: str) -> Any:
    return either((str, text(256)), (list, items(text(256), 16)), must="text or a list of at most 16 texts")(value, at)


def bias(value: Any, at: str) -> Any:
    if type(value) is not dict or len(value) > 1024 or any(not k.isdecimal() for k in value):
        raise refuse(at, "an object with at most 1024 token ids")
    return {k: number(-100, 100)(v, f"{at}.{k}") for k, v in value.items()}


def data_image(value: Any, at: str) -> Any:
    if type(value) is not str or not DATA_IMAGE.match(value):
        raise malformed(
            f"{at} must be a data: URL of a PNG, JPEG, WebP or GIF image; {LINKS}.", at, "unsupported_value"
        )
    return value


KIND = one_of("text", "image_url", "refusal", "function", "json_object", "json_schema")
TEXT_PART = shape({"type": anything, "text": text(), "cache_control": dropped}, ["text"])
CHAT_PARTS = {"text": TEXT_PART, "refusal": shape({"type": anything, "refusal": text()}, ["refusal"])}
CHAT_IMAGE = shape(
    {"type": anything, "image_url": shape({"url": data_image, "detail": one_of("auto", "low", "high")}, ["url"])},
    ["image_url"],
)
FUNCTION = shape({"name": name, "description": text(), "parameters": mapping, "strict": boolean}, ["name"])
TOOL_CALL = shape(
    {
        "id": text(128),
        "type": one_of("function"),
        "index": integer(0, 1024),
        "function": shape({"name": name, "arguments": text()}, ["name", "arguments"]),
    },
    ["function"],
)
JSON_SCHEMA = shape({"name": name, "description": text(), "schema": mapping, "strict": boolean}, ["name"])
TOOL_CHOICE = either(
    (str, one_of("none", "auto", "required")),
    (dict, shape({"type": one_of("function"), "function": shape({"name": name}, ["name"])}, ["function"])),
    must="none, auto, required or a function",
)
STREAM_OPTIONS = shape({"include_usage": boolean, "continuous_usage_stats": boolean, "include_obfuscation": dropped})


def _content(parts: dict[str, Check]) -> Check:
    return either((str, text()), (list, items(by("type", parts), MANY)), must="text or a list of parts")


def _chat_messages(images: bool) -> Check:
    content = _content(CHAT_PARTS | ({"image_url": CHAT_IMAGE} if images else {}))
    message = shape(
        {
            "role": one_of("system", "developer", "user", "assistant", "tool"), "content": content, "name": text(128), "refusal": text(),
            "tool_calls": items(TOOL_CALL, 128), "tool_call_id": text(128), "reasoning": text(), "reasoning_content": text(),
            "annotations": dropped, "audio": never("no model here speaks"), "function_call": never("use tool_calls"),
        },
        ["role"],
    )  # fmt: skip
    return items(message, MANY, 1)


SAMPLING: dict[str, Check] = {
    "model": text(256), "temperature": number(0, 2), "top_p": number(0, 1), "top_k": integer(-1, MANY), "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2), "presence_penalty": number(-2, 2), "repetition_penalty": number(0.01, 10),
    "seed": integer(-INT64, INT64 - 1), "stop": stops, "logit_bias": bias, "stream": boolean, "stream_options": STREAM_OPTIONS,
    "user": dropped, "metadata": dropped, "service_tier": one_of("auto", "default", "flex"),
}  # fmt: skip
TOKEN_IDS = items(integer(0, TOKEN), MANY, 1)


def _prompts(value: Any, at: str) -> Any:
    """Text or token ids, or a list of one of them."""
    if type(value) is str:
        return text()(value, at)
    if type(value) is not list or not value:
        raise refuse(at, "text, token ids, or a list of them")
    if type(value[0]) is int:
        return TOKEN_IDS(value, at)
    return items(either((str, text()), (list, TOKEN_IDS), must="text or token ids"), 2048, 1)(value, at)


RESPONSES_PARTS = {
    "input_text": shape({"type": anything, "text": text()}, ["text"]),
    "output_text": shape({"type": anything, "text": text(), "annotations": dropped, "logprobs": dropped}, ["text"]),
    "refusal": CHAT_PARTS["refusal"],
}
RESPONSES_IMAGE = shape(
    {"type": anything, "image_url": data_image, "detail": one_of("auto", "low", "high")}, ["image_url"]
)
STATUS = one_of("in_progress", "completed", "incomplete")


def _responses_input(images: bool) -> Check:
    content = _content(RESPONSES_PARTS | ({"input_image": RESPONSES_IMAGE} if images else {}))
    role = one_of("system", "developer", "user", "assistant")
    entries = {
        "message": shape({"type": anything, "role": role, "content": content, "id": text(128), "status": STATUS, "phase": dropped}, ["role", "content"]),
        "function_call": shape(
            {"type": anything, "call_id": text(128), "name": name, "arguments": text(), "id": text(128), "status": STATUS}, ["call_id", "name", "arguments"]
        ),
        "function_call_output": shape({"type": anything, "call_id": text(128), "output": text(), "id": text(128), "status": STATUS}, ["call_id", "output"]),
        "reasoning": shape(
            {
                "type": anything, "id": text(128), "status": STATUS, "encrypted_content": text(),
                "summary": items(shape({"type": anything, "text": text()}), 1024), "content": items(shape({"type": anything, "text": text()}), 1024),
            }
        ),
    }  # fmt: skip
    return either((str, text()), (list, items(by("type", entries, "message"), MANY, 1)), must="text or a list of items")


def _responses(images: bool) -> dict[str, Check]:
    tool = shape(
        {"type": one_of("function"), "name": name, "description": text(), "parameters": mapping, "strict": boolean},
        ["type", "name"],
    )
    formats = {
        "text": shape({"type": anything}),
        "json_object": shape({"type": anything}),
        "json_schema": shape(
            {"type": anything, "name": name, "description": text(), "schema": mapping, "strict": boolean},
            ["name", "schema"],
        ),
    }
    choice = either(
        (str, one_of("none", "auto", "required")), (dict, shape({"type": one_of("function"), "name": name}, ["name"])), must="none, auto, required or a function",
    )  # fmt: skip
    return {
        **{k: v for k, v in SAMPLING.items() if k not in ("logit_bias", "stream_options", "stop")},
        "stream_options": shape({"include_obfuscation": dropped}), "input": _responses_input(images), "instructions": text(),
        "max_output_tokens": integer(1, TOKEN), "tools": items(tool, 128), "tool_choice": choice, "parallel_tool_calls": boolean,
        "text": shape({"format": by("type", formats), "verbosity": dropped}), "truncation": one_of("auto", "disabled"), "top_logprobs": integer(0, 20),
        "reasoning": shape({"effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"), "summary": dropped, "generate_summary": dropped}),
        "include": items(one_of("message.output_text.logprobs", "reasoning.encrypted_content"), 8), "store": dropped,
        "background": never("answers are not stored"), "previous_response_id": never("answers are not stored"),
        "max_tool_calls": dropped, "prompt_cache_key": dropped, "safety_identifier": dropped,
    }  # fmt: skip


def _messages(images: bool) -> dict[str, Check]:
    source = by(
        "type",
        {
            "base64": shape(
                {
                    "type": anything,
                    "media_type": one_of("image/png", "image/jpeg", "image/webp", "image/gif"),
                    "data": text(),
                },
                ["data"],
            )
        },
    )
    image = (
        {"image": shape({"type": anything, "source": source, "cache_control": dropped}, ["source"])} if images else {}
    )
    block: dict[str, Check] = {"type": anything, "cache_control": dropped}
    inner = {"text": TEXT_PART, **image}
    parts = {
        **inner,
        "tool_use": shape(
            {**block, "id": text(128), "name": name, "input": mapping, "caller": dropped}, ["id", "name", "input"]
        ),
        "tool_result": shape(
            {**block, "tool_use_id": text(128), "content": _content(inner), "is_error": boolean}, ["tool_use_id"]
        ),
        "thinking": shape({**block, "thinking": text(), "signature": text()}, ["thinking"]),
    }
    tool = shape(
        {
            "name": name,
            "description": text(),
            "input_schema": mapping,
            "type": one_of("custom"),
            "cache_control": dropped,
            "strict": boolean,
        },
        ["name", "input_schema"],
    )
    thinking = by(
        "type",
        {
            "enabled": shape(
                {"type": anything, "budget_tokens": integer(1024, TOKEN), "display": dropped}, ["budget_tokens"]
            ),
            "disabled": shape({"type": anything}),
            "adaptive": shape({"type": anything, "display": dropped}),
        },
    )
    message = shape({"role": one_of("user", "assistant", "system"), "content": _content(parts)}, ["role", "content"])
    choice = shape(
        {"type": one_of("auto", "any", "tool", "none"), "name": name, "disable_parallel_tool_use": boolean}, ["type"]
    )
    return {
        "model": text(256), "messages": items(message, MANY, 1), "max_tokens": integer(1, TOKEN), "system": _content({"text": TEXT_PART}),
        "stop_sequences": items(text(256), 16), "stream": boolean, "temperature": number(0, 2), "top_k": integer(0, MANY), "top_p": number(0, 1),
        "tools": items(tool, 128), "tool_choice": choice, "thinking": thinking, "metadata": dropped, "cache_control": dropped,
        "service_tier": one_of("auto", "standard_only"),
    }  # fmt: skip


def _chat(images: bool) -> dict[str, Check]:
    formats = {
        "text": shape({"type": KIND}),
        "json_object": shape({"type": KIND}),
        "json_schema": shape({"type": KIND, "json_schema": JSON_SCHEMA}, ["json_schema"]),
    }
    return {
        **SAMPLING, "messages": _chat_messages(images), "max_tokens": integer(1, TOKEN), "max_completion_tokens": integer(1, TOKEN),
        "n": integer(1, 8), "logprobs": boolean, "top_logprobs": integer(0, 20), "response_format": by("type", formats),
        "tools": items(shape({"type": one_of("function"), "function": FUNCTION}, ["function"]), 128), "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": boolean, "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh"), "include_reasoning": boolean,
        "chat_template_kwargs": shape({"enable_thinking": boolean, "thinking": boolean}), "store": never("answers are not stored"),
        "safety_identifier": dropped, "prompt_cache_key": dropped, "modalities": items(one_of("text"), 1), "verbosity": dropped,
    }  # fmt: skip


DOCUMENTS = either((str, text()), (list, items(text(), 10_000, 1)), must="text or a list of texts")
POOLING: dict[str, Check] = {"model": text(256), "user": dropped, "truncate_prompt_tokens": integer(-1, TOKEN)}


def _table(images: bool) -> dict[str, dict[str, Check]]:
    return {
        "chat": _chat(images),
        "completions": {
            **SAMPLING, "prompt": _prompts, "max_tokens": integer(1, TOKEN), "n": integer(1, 8), "logprobs": integer(0, 20), "echo": boolean,
            "best_of": integer(1, 1),
        },
        "responses": _responses(images),
        "messages": _messages(images),
        "embeddings": {**POOLING, "input": _prompts, "dimensions": integer(1, 65_536), "encoding_format": one_of("float", "base64")},
        "rerank": {**POOLING, "query": text(), "documents": DOCUMENTS, "top_n": integer(0, 10_000)},
        "score": {**POOLING, "text_1": DOCUMENTS, "text_2": DOCUMENTS, "queries": DOCUMENTS, "documents": DOCUMENTS},
        "tokenize": {
            "model": text(256), "prompt": text(), "messages": _chat_messages(images), "add_special_tokens": boolean, "add_generation_prompt": boolean,
            "return_token_strs": boolean,
        },
    }  # fmt: skip


# By whether the model takes images, then by endpoint.
TABLE = {images: _table(images) for images in (False, True)}
REQUIRED: dict[str, tuple[str, ...]] = {
    "chat": ("messages",), "completions": ("prompt",), "responses": ("input",), "messages": ("messages", "max_tokens"),
    "embeddings": ("input",), "rerank": ("query", "documents"), "score": (), "tokenize": (),
}  # fmt: skip
