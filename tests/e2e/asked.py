"""Kinds of requests that vLLM does something else for than for a plain chat: after each the engine must answer on."""

from __future__ import annotations

from typing import Any

from openai import OpenAI

# Each asks for something that vLLM does not do for a plain chat: the engine must be the same process after it, and answer.
ASKED: dict[str, dict[str, Any]] = {
    "log probabilities": {"logprobs": True, "top_logprobs": 5},
    "likeliest of few": {"temperature": 1, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
    "penalties": {"presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "several answers": {"n": 3, "temperature": 1},
    "a seed": {"seed": 7, "temperature": 1},
    "a bias": {"logit_bias": {"5": 20}},
    "words that end it": {"stop": ["a", "e"]},
    "a JSON schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}}},
    "any JSON": {"response_format": {"type": "json_object"}},
    "a regular expression": {"structured_outputs": {"regex": "yes|no"}},
    "a choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "log probabilities of the prompt": {"prompt_logprobs": 1},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}], "tool_choice": "none"},
    "a tool by name": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "a long prompt": {"messages": [{"role": "user", "content": "word " * 80}]},
    "a prompt that is too long": {"messages": [{"role": "user", "content": "word " * 4000}]},
}  # fmt: skip
REFUSED = {"a prompt that is too long", "a tool by name"}  # the second wants a tool-call-parser in args of the service
PLAIN: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
LEFT = "a stream that the client leaves"


def post(client: OpenAI, body: dict[str, Any]) -> int:
    """The status of one chat request, sent as the client's library sends it."""
    return client._client.post(f"{client.base_url}chat/completions", json=body).status_code


def everything(client: OpenAI) -> dict[str, tuple[int, int]]:
    """The status of every kind of request, and of a plain one after it."""
    found = {}
    for name, more in ASKED.items():
        found[name] = post(client, PLAIN | {"max_tokens": 8} | more), post(client, PLAIN)
    stream = client.chat.completions.create(**PLAIN | {"max_tokens": 400}, stream=True)
    next(iter(stream))
    stream.close()
    return found | {LEFT: (200, post(client, PLAIN))}


def expected() -> dict[str, tuple[int, int]]:
    """What `everything` returns where all is well."""
    return {name: (400 if name in REFUSED else 200, 200) for name in (*ASKED, LEFT)}
