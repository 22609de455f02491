"""An explanation of a key as text for a terminal. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from installer.explain import LEFT_OUT, Explanation

WIDTH = 110  # columns


def lines(found: Explanation, *, recursive: bool = False) -> str:
    """The text of an explanation.

    Args:
        recursive: its keys as a tree, each on one line; otherwise each with its description.
    """
    facts = [("type", found.type)]
    if "." in found.path:
        facts.append(("required", "yes" if found.required else "no"))
    if (default := _default(found)) and not found.required:
        facts.append(("default", default))
    if allowed := _allowed(found):
        facts.append(("allowed", allowed))
    text = [found.path, *(_wrapped(value, f"  {name:<8}  ", 12) for name, value in facts), ""]
    text.append(_wrapped(found.description, "  ", 2))
    if found.keys:
        text += ["", "  Keys:"]
        text += _tree(found.keys, 4) if recursive else _list(found.keys)
    return "\n".join(text)


def _list(keys: tuple[Explanation, ...]) -> Iterator[str]:
    for key in keys:
        yield f"    {key.name}  {_short(key)}"
        yield _wrapped(key.description, "        ", 8)


def _tree(keys: tuple[Explanation, ...], indent: int) -> Iterator[str]:
    for key in keys:
        yield f"{' ' * indent}{key.name}  {_short(key)}"
        yield from _tree(key.keys, indent + 2)


def _short(key: Explanation) -> str:
    """Type and what else fits on a line."""
    values = f"one of {' '.join(map(_value, key.values))}" if key.values else ""
    default = "optional" if key.default in (LEFT_OUT, None) else f"default {_default(key)}"
    return f"({', '.join(filter(None, (key.type, values, 'required' if key.required else default)))})"


def _wrapped(text: str, first: str, indent: int) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _default(key: Explanation) -> str:
    return "" if key.default is LEFT_OUT else "not set" if key.default is None else _value(key.default)


def _value(value: Any) -> str:
    """As YAML has it on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if value != "" else '""'


def _allowed(key: Explanation) -> str:
    return "; ".join(filter(None, (", ".join(map(_value, key.values)), *key.limits)))
