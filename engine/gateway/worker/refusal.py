"""Everything the gateway answers instead of a model: its own words, in the shape that the client's library expects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson

LONGEST_RETRY_S = (
    120  # official clients wait as long as Retry-After says up to here; beyond, they must be told not to try
)
TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 413: "request_too_large", 415: "invalid_request_error",
    429: "rate_limit_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
KINDS = {
    "requests_per_minute": ("requests per minute", "rate_limit_exceeded"),
    "tokens_per_minute": ("tokens per minute", "rate_limit_exceeded"),
    "tokens_per_day": ("tokens per day", "insufficient_quota"),
    "tokens_per_month": ("tokens per month", "insufficient_quota"),
    "concurrent_requests": ("concurrent requests", "concurrency_limit_exceeded"),
}


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  # it is an answer
    """An answer that is not a model's.

    Attributes:
        code: for programs, stable.
        noted: its audit line is written, or will be when the reservation is settled.
        message: for people; never a text of the model server, and no part of the request beyond names of fields.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    noted: bool = False

    def body(self, dialect: str) -> bytes:
        """The whole answer as JSON."""
        if dialect == "messages":
            return orjson.dumps(self._anthropic())
        return orjson.dumps({"error": self._error()})

    def event(self, dialect: str, number: int = 0) -> bytes:
        """The end of a stream that broke: the official clients raise an error on it."""
        if dialect == "messages":
            return b"event: error\ndata: " + orjson.dumps(self._anthropic()) + b"\n\n"
        if dialect == "responses":
            # The event of the API has its fields at the top; the official client raises on `error`.
            data = {
                "type": "error",
                "code": self.code,
                "message": self.message,
                "param": None,
                "sequence_number": number,
                "error": self._error(),
            }
            return b"event: error\ndata: " + orjson.dumps(data) + b"\n\n"
        return b"data: " + orjson.dumps({"error": self._error()}) + b"\n\n"

    def _error(self) -> dict[str, Any]:
        return {"message": self.message, "type": self._type(), "param": self.param, "code": self.code}

    def _anthropic(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self._type(), "message": self.message, "code": self.code}}

    def _type(self) -> str:
        return "insufficient_quota" if self.code == "insufficient_quota" else TYPES.get(self.status, "api_error")


def of_ledger(told: dict[str, Any]) -> Refusal:
    """What a client is told when the ledger refused; its headers are those of the limit that refused."""
    reason = told["reason"]
    if reason == "revoked":
        return revoked()
    if reason == "busy":
        return Refusal(
            503, "overloaded", "All slots of this model are in use; try again later.", headers={"retry-after": "5"}
        )
    if reason != "limit":
        return Refusal(
            503,
            "unavailable",
            "The gateway cannot take new requests now; try again later.",
            headers={"retry-after": "10"},
        )
    return of_limit(told["scope"], told["kind"], told["limit"], told["remaining"], told["reset_s"], never=told["never"])


def revoked() -> Refusal:
    """A credential that was good and is no longer in the configuration."""
    return Refusal(401, "credential_revoked", "The credential is no longer valid.")


def of_limit(scope: str, kind: str, limit: int, remaining: int, reset_s: float, *, never: bool) -> Refusal:
    """The refusal by one limit."""
    words, code = KINDS[kind]
    whose = "this model" if scope == "model" else f"this {scope}"
    if never:
        text = f"The request is larger than the limit of {limit} {words} of {whose}, so it can never be answered. Send a shorter prompt or a smaller max_tokens."
        return Refusal(400, "request_exceeds_limit", text)
    seconds = max(1, math.ceil(reset_s))
    headers = {"retry-after": str(seconds)} | limit_headers(kind, limit, remaining, reset_s)
    # Waiting for tomorrow is not a retry: without this, official clients ask again and again.
    if code == "insufficient_quota" or seconds > LONGEST_RETRY_S:
        headers["x-should-retry"] = "false"
    return Refusal(
        429,
        code,
        f"The limit of {limit} {words} of {whose} is reached; it begins again in {seconds} seconds.",
        headers=headers,
    )


def limit_headers(kind: str, limit: float, remaining: float, reset_s: float) -> dict[str, str]:
    """``x-ratelimit-*`` of a limit; of requests or of tokens."""
    name = "tokens" if "tokens" in kind else "requests"
    return {
        f"x-ratelimit-limit-{name}": f"{limit:.0f}",
        f"x-ratelimit-remaining-{name}": f"{remaining:.0f}",
        f"x-ratelimit-reset-{name}": f"{max(0.0, reset_s):.3f}s",
    }


def malformed(message: str, param: str | None = None, code: str = "invalid_value") -> Refusal:
    """The request itself is wrong."""
    return Refusal(400, code, message, param)
