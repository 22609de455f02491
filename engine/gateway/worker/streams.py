"""Streams of events: cut into frames, read for usage and for their end, and passed on. Pure.

The gateway has the model server report usage in every chunk and takes it out again, so that an abandoned stream is charged for what it
got. A frame that is not what it must be ends the stream with an error; nothing unread reaches a client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

USAGE = b',"usage":{'


class BrokenStream(Exception):  # noqa: N818  # it is a state of the other side
    """The model server's stream cannot go on. The text is for the log and quotes nothing."""


@dataclass
class Usage:
    """Tokens as the model server reported them last."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def usage_of(found: Any) -> Usage | None:
    """Usage in any of the APIs' spellings; None when there is none."""
    if type(found) is not dict:
        return None
    # The messages API does not count cached tokens among its input.
    apart = [found.get("cache_read_input_tokens"), found.get("cache_creation_input_tokens")]
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details") or {}
    prompt = found.get("prompt_tokens", found.get("input_tokens"))
    completion = found.get("completion_tokens", found.get("output_tokens", 0))
    cached = details.get("cached_tokens") if type(details) is dict else None
    numbers: list[Any] = [prompt, completion or 0, cached or 0, *(a or 0 for a in apart)]
    if any(type(n) is not int or n < 0 for n in numbers):
        return None
    return Usage(numbers[0] + numbers[3] + numbers[4], numbers[1], numbers[2] + numbers[3])


class Frames:
    """Cuts bytes into frames, which end with an empty line."""

    def __init__(self, most: int) -> None:
        self._most, self._rest = most, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Whole frames, without the empty line.

        Raises:
            BrokenStream: a frame is larger than allowed.
        """
        *whole, self._rest = (self._rest + data).split(b"\n\n") if self._rest else data.split(b"\n\n")
        if len(self._rest) > self._most or any(len(f) > self._most for f in whole):
            raise BrokenStream("a frame is too large")
        yield from (f for f in whole if f)

    @property
    def rest(self) -> bytes:
        """What has no end yet."""
        return self._rest


class Stream(ABC):
    """Reads the frames of one answer.

    Attributes:
        usage: what was reported last, or None.
        final: it is the last word.
        done: the stream ended as it must.
        finish: why generation ended.
        number: of the last event, where events have numbers.
    """

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.final = False
        self.done = False
        self.finish: str | None = None
        self.number = 0

    @abstractmethod
    def feed(self, frame: bytes) -> bytes:
        """What the client gets of a frame, with its empty line; nothing when it is only for the gateway.

        Raises:
            BrokenStream: the frame is an error of the model server, or is not what it must be.
        """

    def _data(self, frame: bytes) -> tuple[bytes, dict[str, Any]]:
        """The event and data of a frame."""
        event, data = b"", b""
        for line in frame.split(b"\n"):
            if line.startswith(b"data: "):
                if data:
                    raise BrokenStream("a frame with two data lines")
                data = line[6:]
            elif line.startswith(b"event: "):
                event = line[7:]
            elif not line.startswith(b":"):
                raise BrokenStream("a line that is neither event nor data")
        if not data:
            return event, {}
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise BrokenStream("data that is not JSON") from None
        if type(found) is not dict:
            raise BrokenStream("data that is not an object")
        if found.get("error") or found.get("type") == "error":
            raise BrokenStream("an error event")
        return event, found


class ChatStream(Stream):
    """Chat and text completions, which end with ``[DONE]``."""

    def __init__(self, *, usage: bool, continuous: bool) -> None:
        super().__init__()
        self._wanted, self._continuous = usage, continuous

    def feed(self, frame: bytes) -> bytes:
        if frame == b"data: [DONE]":
            self.done = True
            return b"data: [DONE]\n\n"
        if frame.startswith(b"data: ") and b"\n" not in frame:
            try:
                found = orjson.loads(frame[6:])
            except orjson.JSONDecodeError:
                raise BrokenStream("data that is not JSON") from None
            if type(found) is not dict or "error" in found:
                raise BrokenStream("an error event, or data that is not an object")
        else:
            found = self._data(frame)[1]
        if not found:
            return frame + b"\n\n"  # a comment, which keeps connections alive
        choices = found.get("choices")
        if type(choices) is not list:
            raise BrokenStream("a chunk without choices")
        for choice in choices:
            if type(choice) is dict and choice.get("finish_reason"):
                self.finish = choice["finish_reason"]
        if (reported := found.get("usage")) is None:
            return frame + b"\n\n"
        self.usage = usage_of(reported) or self.usage
        if not choices:
            self.final = True
            return frame + b"\n\n" if self._wanted else b""
        return frame + b"\n\n" if self._continuous else _without_usage(frame, found)


def _without_usage(frame: bytes, found: dict[str, Any]) -> bytes:
    """A chunk without its usage. Inside a JSON text a quotation mark has a backslash before it, so the bytes sought are a key."""
    at = frame.find(USAGE)
    if at > 0 and frame.find(USAGE, at + 1) < 0:
        end = frame.find(b"}", at)
        # Details are objects of their own, of numbers; without texts, braces only open and close.
        while end > 0 and frame.count(b"{", at, end) > frame.count(b"}", at, end) + 1:
            end = frame.find(b"}", end + 1)
        if end > 0:
            return frame[:at] + frame[end + 1 :] + b"\n\n"
    return b"data: " + orjson.dumps({k: v for k, v in found.items() if k != "usage"}) + b"\n\n"


class ResponsesStream(Stream):
    """The responses API: usage comes with the last event."""

    def feed(self, frame: bytes) -> bytes:
        _, found = self._data(frame)
        kind = found.get("type")
        self.number = found.get("sequence_number", self.number) if found else self.number
        if kind == "response.failed":
            raise BrokenStream("a failed response")
        if kind in ("response.completed", "response.incomplete"):
            whole = found.get("response")
            self.usage = usage_of(whole.get("usage") if type(whole) is dict else None)
            self.final = self.usage is not None
            self.done = True
            self.finish = kind.removeprefix("response.")
        return frame + b"\n\n"


class MessagesStream(Stream):
    """The messages API: input tokens come first, output tokens last."""

    def feed(self, frame: bytes) -> bytes:
        _, found = self._data(frame)
        match found.get("type"):
            case "message_start":
                message = found.get("message")
                self.usage = usage_of(message.get("usage") if type(message) is dict else None)
            case "message_delta":
                if (last := usage_of(found.get("usage"))) is not None:
                    self.usage = Usage(
                        max(last.prompt, self.usage.prompt if self.usage else 0), last.completion, last.cached
                    )
                    self.final = True
                delta = found.get("delta")
                self.finish = delta.get("stop_reason") if type(delta) is dict else None
            case "message_stop":
                self.done = True
        return frame + b"\n\n"


def reader(endpoint: str, *, usage: bool, continuous: bool) -> Stream:
    """What reads the stream of an endpoint."""
    if endpoint == "responses":
        return ResponsesStream()
    if endpoint == "messages":
        return MessagesStream()
    return ChatStream(usage=usage, continuous=continuous)
