"""Checks of values in a request: each takes a value and where it is, and returns what is sent on or refuses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.gateway.worker.refusal import Refusal, malformed

Check = Callable[[Any, str], Any]
DROPPED = object()  # understood, and not sent on
MAX_TEXT = 1 << 26
INT64 = 1 << 63


def refuse(at: str, must: str) -> Refusal:
    return malformed(f"{at} must be {must}.", at)


def boolean(value: Any, at: str) -> Any:
    if type(value) is not bool:
        raise refuse(at, "true or false")
    return value


def text(longest: int = MAX_TEXT) -> Check:
    def check(value: Any, at: str) -> Any:
        if type(value) is not str or len(value) > longest:
            raise refuse(at, f"text of at most {longest} characters")
        return value

    return check


def integer(least: int, most: int) -> Check:
    def check(value: Any, at: str) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise refuse(at, f"a whole number from {least} to {most}")
        return value

    return check


def number(least: float, most: float) -> Check:
    def check(value: Any, at: str) -> Any:
        if type(value) not in (int, float) or not least <= value <= most:
            raise refuse(at, f"a number from {least:g} to {most:g}")
        return value

    return check


def one_of(*allowed: str) -> Check:
    def check(value: Any, at: str) -> Any:
        if value not in allowed:
            raise refuse(at, f"one of {', '.join(allowed)}")
        return value

    return check


def dropped(value: Any, at: str) -> Any:
    return DROPPED


def never(reason: str) -> Check:
    """A field that official clients send and that only its default is allowed for."""

    def check(value: Any, at: str) -> Any:
        if value not in (False, None, "", [], {}):
            raise malformed(f"{at} is not supported here: {reason}.", at, "unsupported_value")
        return DROPPED

    return check


def items(check: Check, most: int, least: int = 0) -> Check:
    def whole(value: Any, at: str) -> Any:
        if type(value) is not list or not least <= len(value) <= most:
            raise refuse(at, f"a list of {least} to {most} entries")
        return [check(v, f"{at}.{i}") for i, v in enumerate(value)]

    return whole


def either(*pairs: tuple[type, Check], must: str) -> Check:
    """The check of the value's type."""

    def check(value: Any, at: str) -> Any:
        for kind, inner in pairs:
            if type(value) is kind:
                return inner(value, at)
        raise refuse(at, must)

    return check


def anything(value: Any, at: str) -> Any:
    """Free-form JSON (a schema); its size and depth were bounded when it was read."""
    return value


def mapping(value: Any, at: str) -> Any:
    if type(value) is not dict:
        raise refuse(at, "an object")
    return value


def shape(fields: Mapping[str, Check], required: Iterable[str] = ()) -> Check:
    """An object with these fields and no others."""
    needed = tuple(required)

    def check(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise refuse(at, "an object")
        return fields_of(value, fields, needed, f"{at}." if at else "")

    return check


def by(key: str, shapes: Mapping[str, Check], default: str | None = None) -> Check:
    """An object whose field ``key`` says which shape it has."""

    def check(value: Any, at: str) -> Any:
        if type(value) is not dict:
            raise refuse(at, "an object")
        kind = value.get(key, default)
        if type(kind) is not str or kind not in shapes:
            raise malformed(f"{at}.{key} must be one of {', '.join(shapes)}.", f"{at}.{key}", "unsupported_value")
        return shapes[kind](value, at)

    return check


def fields_of(
    value: Mapping[str, Any], fields: Mapping[str, Check], required: Iterable[str], prefix: str
) -> dict[str, Any]:
    """The allowed fields of an object, each checked; null means absent.

    Raises:
        Refusal: a field is not on the list (all such are named), is missing, or has a wrong value.
    """
    if unknown := [k for k in value if k not in fields]:
        named = ", ".join(f"{prefix}{k[:64]}" for k in sorted(unknown)[:10])
        raise malformed(
            f"These fields are not supported: {named}.", f"{prefix}{sorted(unknown)[0][:64]}", "unsupported_field"
        )
    made = {}
    for name, given in value.items():
        if given is not None and (kept := fields[name](given, f"{prefix}{name}")) is not DROPPED:
            made[name] = kept
    for name in required:
        if name not in made:
            raise malformed(f"{prefix}{name} is required.", f"{prefix}{name}", "missing_field")
    return made
