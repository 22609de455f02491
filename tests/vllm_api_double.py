"""A double of vLLM's HTTP API for tests of the gateway: no model, but the bytes and the failures of the real one.

Checked against vLLM 0.32: chunks are pydantic's JSON without spaces with ``usage`` behind ``choices``, each chunk has it when
``continuous_usage_stats`` is set; the messages API has no usage between its first and last events; responses have it in the last one.
Each "word" is a token. What a request's text says after ``do:`` decides how it is answered; what came is written to a file.

    python -m tests.vllm_api_double SOCKET RECORD
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn

INTERNAL = "engine core at 0x7f3a died in /opt/vllm/worker.py"  # what no client may ever see
COUNTS = {"running": 0}


class Double:
    def __init__(self, record: Path) -> None:
        self._gate = record.with_name("gate")  # requests that say do:gate are answered when it is there
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, **facts: Any) -> None:
        os.write(self._record, json.dumps(facts).encode() + b"\n")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body or b"{}")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        if scope["path"] == "/health":
            await self._whole(send, 200, {"running": COUNTS["running"]})
            return
        text = json.dumps([asked.get(k) for k in ("messages", "prompt", "input", "query", "text_1")])
        todo = dict(re.findall(r"do:([a-z-]+)=?([0-9.]*)", text))
        facts = {"id": headers.get("x-request-id"), "path": scope["path"], "prompt": len(text.split()), "generated": 0}
        self.write(kind="begin", headers=headers, body=asked, **facts)
        COUNTS["running"] += 1
        work = asyncio.current_task()
        gone = asyncio.create_task(self._gone(receive, work))
        try:
            await self._answer(send, scope["path"], asked, todo, facts)
        except asyncio.CancelledError:
            facts["aborted"] = True
        finally:
            gone.cancel()
            COUNTS["running"] -= 1
            self.write(kind="end", **facts)

    async def _gone(self, receive: Any, work: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        work.cancel()

    async def _answer(
        self, send: Any, path: str, asked: dict[str, Any], todo: dict[str, str], facts: dict[str, Any]
    ) -> None:
        await asyncio.sleep(float(todo.get("wait", 0)))
        while "gate" in todo and not self._gate.exists():
            await asyncio.sleep(0.02)
        if "status" in todo:
            error = {"message": INTERNAL, "type": "BadRequestError", "param": None, "code": int(todo["status"])}
            await self._whole(send, int(todo["status"]), {"error": error})
        elif asked.get("stream"):
            await self._stream(send, path, asked, todo, facts)
        elif path.endswith(("embeddings", "rerank", "score")):
            await self._whole(send, 200, _pooled(path, asked, facts))
        elif path == "/tokenize":
            await self._whole(
                send,
                200,
                {
                    "count": facts["prompt"],
                    "max_model_len": 4096,
                    "tokens": list(range(facts["prompt"])),
                    "token_strs": None,
                },
            )
        else:
            facts["generated"] = _wanted(asked, todo)
            await self._whole(send, 200, _complete(path, asked, facts), cut="cut" in todo)

    async def _whole(self, send: Any, status: int, body: dict[str, Any], *, cut: bool = False) -> None:
        raw = json.dumps(body, separators=(",", ":")).encode()
        length = str(len(raw)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
            }
        )
        await send({"type": "http.response.body", "body": raw[: len(raw) // 2] if cut else raw, "more_body": cut})
        if cut:
            raise asyncio.CancelledError

    async def _stream(
        self, send: Any, path: str, asked: dict[str, Any], todo: dict[str, str], facts: dict[str, Any]
    ) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
            }
        )
        make = {"/v1/responses": _responses, "/v1/messages": _messages}.get(path, _chunks)
        pause, number = float(todo.get("pause", 0)), 0
        async for event in make(path, asked, todo, facts):
            if number == int(todo.get("die", -1) or 0):
                raise asyncio.CancelledError
            if number == int(todo.get("stall", -1) or 0):
                await asyncio.sleep(3600)
            await send({"type": "http.response.body", "body": _spoilt(event, number, todo), "more_body": True})
            number += 1
            while number == int(todo.get("gate-at", -1) or 0) and not self._gate.exists():
                await asyncio.sleep(0.02)
            await asyncio.sleep(pause)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _spoilt(event: bytes, number: int, todo: dict[str, str]) -> bytes:
    """The event, or what comes instead of it."""
    error = {"error": {"message": INTERNAL, "type": "InternalServerError", "code": 500}}
    instead = {
        "garbage": b"data: {not json\n\n",
        "error": _frame(error),
        "huge": b'data: {"choices":[],"x":"' + b"x" * (2 << 20) + b'"}\n\n',
    }
    return next((raw for name, raw in instead.items() if number == int(todo.get(name, -1) or 0)), event)


def _wanted(asked: dict[str, Any], todo: dict[str, str]) -> int:
    most: int = next(
        (asked[k] for k in ("max_completion_tokens", "max_tokens", "max_output_tokens") if k in asked), 4096
    )
    choices: int = asked.get("n", 1)
    return min(int(todo.get("tokens", 5)), most) * choices


def _usage(facts: dict[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": facts["prompt"],
        "total_tokens": facts["prompt"] + facts["generated"],
        "completion_tokens": facts["generated"],
    }


def _frame(data: dict[str, Any], event: str = "") -> bytes:
    raw = json.dumps(data, separators=(",", ":")).encode()
    return (b"event: %s\n" % event.encode() if event else b"") + b"data: " + raw + b"\n\n"


async def _chunks(
    path: str, asked: dict[str, Any], todo: dict[str, str], facts: dict[str, Any]
) -> AsyncIterator[bytes]:
    chat = "chat" in path
    options = asked.get("stream_options") or {}
    base = {
        "id": f"chatcmpl-{facts['id']}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1,
        "model": asked["model"],
    }
    count, step = _wanted(asked, todo), asked.get("stream_interval", 1)

    def chunk(text: str, finish: str | None, first: bool = False) -> bytes:
        delta = {"role": "assistant", "content": ""} if first else {"content": text}
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        if not chat:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        made = {**base, "choices": [choice]}
        if options.get("continuous_usage_stats") and "no-usage" not in todo:
            made["usage"] = _usage(facts)
        return _frame(made)

    if chat:
        yield chunk("", None, first=True)
    while facts["generated"] < count:
        now = min(step, count - facts["generated"])
        facts["generated"] += now
        # The text tries to look like usage.
        yield chunk('w","usage":{"prompt_tokens":0} ' * now, "stop" if facts["generated"] == count else None)
    if options.get("include_usage") and "no-usage" not in todo:
        yield _frame({**base, "choices": [], "usage": _usage(facts)})
    if "no-done" not in todo:
        yield b"data: [DONE]\n\n"


def _complete(path: str, asked: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    words = " ".join(["w"] * facts["generated"])
    if path == "/v1/messages":
        usage = {"input_tokens": facts["prompt"], "output_tokens": facts["generated"]}
        return {"id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": words}], "model": asked["model"], "stop_reason": "end_turn", "usage": usage}  # fmt: skip
    if path == "/v1/responses":
        return _response(asked, facts, "completed")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": words, "tool_calls": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    if path == "/v1/completions":
        choice = {"index": 0, "text": words, "logprobs": None, "finish_reason": "stop"}
    kind = "text_completion" if path == "/v1/completions" else "chat.completion"
    return {
        "id": "x",
        "object": kind,
        "created": 1,
        "model": asked["model"],
        "choices": [choice],
        "usage": _usage(facts),
    }


def _pooled(path: str, asked: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": facts["prompt"], "total_tokens": facts["prompt"], "completion_tokens": 0}
    if path.endswith("rerank"):
        results = [{"index": 0, "document": {"text": "a"}, "relevance_score": 0.5}]
        return {
            "id": "r",
            "model": asked["model"],
            "usage": {"prompt_tokens": facts["prompt"], "total_tokens": facts["prompt"]},
            "results": results,
        }
    if path.endswith("score"):
        return {
            "id": "s",
            "object": "list",
            "created": 1,
            "model": asked["model"],
            "data": [{"index": 0, "object": "score", "score": 0.5}],
            "usage": usage,
        }
    data = [{"index": 0, "object": "embedding", "embedding": [0.1, 0.2, 0.3]}]
    return {"id": "e", "object": "list", "created": 1, "model": asked["model"], "data": data, "usage": usage}


def _response(asked: dict[str, Any], facts: dict[str, Any], status: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": "w " * facts["generated"], "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": facts["prompt"], "input_tokens_details": {"cached_tokens": 0}, "output_tokens": facts["generated"],
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": facts["prompt"] + facts["generated"],
    }  # fmt: skip
    done = status == "completed"
    return {
        "id": "resp_1", "created_at": 1, "model": asked["model"], "object": "response", "output": [item] if done else [], "parallel_tool_calls": True,
        "tool_choice": "auto", "tools": [], "status": status, "usage": usage if done else None,
    }  # fmt: skip


async def _responses(
    path: str, asked: dict[str, Any], todo: dict[str, str], facts: dict[str, Any]
) -> AsyncIterator[bytes]:
    number = -1

    def event(kind: str, **more: Any) -> bytes:
        nonlocal number
        number += 1
        return _frame({"type": kind, "sequence_number": number, **more}, kind)

    yield event("response.created", response=_response(asked, facts, "in_progress"))
    count = _wanted(asked, todo)
    while facts["generated"] < count:
        facts["generated"] += 1
        yield event("response.output_text.delta", item_id="m", output_index=0, content_index=0, delta="w ", logprobs=[])
    if "no-done" not in todo:
        yield event("response.completed", response=_response(asked, facts, "completed"))


async def _messages(
    path: str, asked: dict[str, Any], todo: dict[str, str], facts: dict[str, Any]
) -> AsyncIterator[bytes]:
    usage = {"input_tokens": facts["prompt"], "output_tokens": 0}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": asked["model"],
        "stop_reason": None,
        "usage": usage,
    }
    yield _frame({"type": "message_start", "message": message}, "message_start")
    yield _frame(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        "content_block_start",
    )
    count = _wanted(asked, todo)
    while facts["generated"] < count:
        facts["generated"] += 1
        yield _frame(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "w "}},
            "content_block_delta",
        )
    yield _frame({"type": "content_block_stop", "index": 0}, "content_block_stop")
    usage = {"input_tokens": facts["prompt"], "output_tokens": facts["generated"]}
    yield _frame(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        "message_delta",
    )
    if "no-done" not in todo:
        yield _frame({"type": "message_stop"}, "message_stop")


def main() -> None:
    socket, record = sys.argv[1:3]
    Path(socket).unlink(missing_ok=True)
    # As vLLM sets it; the gateway must not use a connection that is being closed.
    uvicorn.run(
        Double(Path(record)), uds=socket, lifespan="off", log_level="critical", access_log=False, timeout_keep_alive=5
    )


if __name__ == "__main__":
    main()
