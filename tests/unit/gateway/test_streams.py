"""Frames of streams: usage is read and taken out, whatever the texts say; what is not a frame ends the stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.worker.streams import (
    BrokenStream,
    ChatStream,
    Frames,
    MessagesStream,
    ResponsesStream,
    Usage,
    usage_of,
)

USAGE = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}


def _frame(data: Any, *, spaced: bool = False) -> bytes:
    return b"data: " + json.dumps(data, separators=None if spaced else (",", ":")).encode()


def _chunk(text: str = "w", **more: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


@given(st.text(), st.booleans(), st.booleans())
def test_taking_usage_out_changes_nothing_else(text: str, spaced: bool, behind: bool) -> None:
    before = _chunk(f'{text},"usage":{{{text}')
    data = {**before, "usage": USAGE, **({"system_fingerprint": text} if behind else {})}
    stream = ChatStream(usage=False, continuous=False)
    out = stream.feed(_frame(data, spaced=spaced))
    assert out.endswith(b"\n\n")
    assert json.loads(out.removeprefix(b"data: ")) == {k: v for k, v in data.items() if k != "usage"}
    assert stream.usage == Usage(3, 2, 1)


def test_a_client_that_asked_for_usage_gets_it() -> None:
    last = _frame({"choices": [], "usage": USAGE})
    for usage, continuous, chunks, end in (
        (False, False, False, b""),
        (True, False, False, last + b"\n\n"),
        (True, True, True, last + b"\n\n"),
    ):
        stream = ChatStream(usage=usage, continuous=continuous)
        assert (b'"usage"' in stream.feed(_frame(_chunk(usage=USAGE)))) == chunks
        assert stream.feed(last) == end
        assert stream.final


@given(st.binary(max_size=200), st.lists(st.integers(1, 7)))
def test_frames_are_the_same_however_the_bytes_arrive(raw: bytes, cuts: list[int]) -> None:
    whole = Frames(1000)
    expected = list(whole.feed(raw))
    pieces, found, at = Frames(1000), [], 0
    for cut in [*cuts, len(raw)]:
        found += list(pieces.feed(raw[at : at + cut]))
        at += cut
    if b"\n\n\n" not in raw:
        assert found == expected
    assert b"".join(found).replace(b"\n", b"") == b"".join(expected).replace(b"\n", b"")


def test_a_frame_without_end_is_bounded() -> None:
    frames = Frames(100)
    with pytest.raises(BrokenStream, match="too large"):
        for _ in range(11):
            list(frames.feed(b"x" * 10))
    with pytest.raises(BrokenStream):
        list(Frames(100).feed(b"x" * 101 + b"\n\n"))


@pytest.mark.parametrize(
    "frame",
    [
        b"data: {",
        b"data: []",
        b'data: {"error":{"message":"x"}}',
        b"nonsense",
        b"data: {}x",
        b'data: {"x":1}',
        b'data: {"choices":[]}\ndata: {}',
        b"retry: 1",
    ],
)
def test_what_is_not_a_chunk_ends_the_stream(frame: bytes) -> None:
    with pytest.raises(BrokenStream):
        ChatStream(usage=True, continuous=True).feed(frame)


def test_comments_pass_and_the_end_is_seen() -> None:
    stream = ChatStream(usage=False, continuous=False)
    assert stream.feed(b": ping") == b": ping\n\n"
    assert not stream.done
    assert stream.feed(b"data: [DONE]") == b"data: [DONE]\n\n"
    assert stream.done


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 2}}, Usage(5, 7, 2)),
        ({"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1}, Usage(9, 7, 3)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(5, 0, 0)), ({"prompt_tokens": "5"}, None), ({"prompt_tokens": -5}, None), (None, None),
        ({"prompt_tokens": True}, None), ([], None),
    ],
)  # fmt: skip
def test_usage_in_every_spelling(found: Any, expected: Usage | None) -> None:
    assert usage_of(found) == expected


def test_responses_and_messages_have_their_own_ends() -> None:
    responses = ResponsesStream()
    responses.feed(
        b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"usage":null}}'
    )
    assert (responses.done, responses.usage) == (False, None)
    responses.feed(
        b'event: response.incomplete\ndata: {"type":"response.incomplete","sequence_number":1,"response":{"usage":{"input_tokens":1,"output_tokens":2}}}'
    )
    assert (responses.done, responses.usage, responses.final) == (True, Usage(1, 2, 0), True)
    with pytest.raises(BrokenStream):
        ResponsesStream().feed(
            b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"secret"}}}'
        )
    messages = MessagesStream()
    messages.feed(
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":4,"output_tokens":0}}}'
    )
    assert (messages.usage, messages.final) == (
        Usage(4, 0, 0),
        False,
    )  # of an answer that is cut here, the output is not known
    messages.feed(
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":4,"output_tokens":9}}'
    )
    messages.feed(b'event: message_stop\ndata: {"type":"message_stop"}')
    assert (messages.usage, messages.final, messages.done, messages.finish) == (Usage(4, 9, 0), True, True, "end_turn")
    with pytest.raises(BrokenStream):
        MessagesStream().feed(b'event: error\ndata: {"type":"error","error":{"message":"x"}}')
