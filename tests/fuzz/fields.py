"""One field of a JSON seed exchanged for something hostile, or its key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HOSTILE: list[Any] = [
    None, True, -1, 0, 1 << 63, 10**400, 1e308, "", "../../x", "/etc/passwd", "\ud800", "a\x00b", "x" * 5000,
    [], {}, [[]], {"a": {}}, ["\u202e"],
]  # fmt: skip
_HUGE = "HUGE"  # json.dumps refuses integers of more than 4300 digits; written as text, put in as digits


@dataclass(frozen=True)
class Fields:
    """A seed as JSON; some seeds have a byte before it that says how they are to be read."""

    prefix: bytes
    tree: Any

    def spots(self) -> list[tuple[Any, Any]]:
        """Every (container, key or position) in the tree."""
        found: list[tuple[Any, Any]] = []
        waiting = [self.tree]
        while waiting:
            here = waiting.pop()
            keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
            found += [(here, key) for key in keys]
            waiting += [here[key] for key in keys]
        return found

    def exchanged(self, holder: Any, key: Any, value: Any, *, as_key: bool = False) -> bytes:
        """The seed with the value there (or the key) exchanged; the tree is as before afterwards."""
        before = holder.copy()
        if as_key:
            holder[value] = holder.pop(key)
        else:
            holder[key] = _HUGE if isinstance(value, int) and value > 1 << 64 else value
        text = json.dumps(self.tree)
        holder.clear()
        if isinstance(holder, dict):
            holder.update(before)
        else:
            holder.extend(before)
        return self.prefix + text.replace(f'"{_HUGE}"', str(value)).encode()

    def all(self) -> Iterator[bytes]:
        """Every field and key exchanged for every hostile value."""
        for holder, key in self.spots():
            for value in HOSTILE:
                yield self.exchanged(holder, key, value)
                if isinstance(holder, dict) and isinstance(value, str):
                    yield self.exchanged(holder, key, value, as_key=True)


def read(data: bytes) -> Fields | None:
    """A seed as fields; None when it is no JSON."""
    prefix, body = (data[:1], data[1:]) if data[:1] < b" " else (b"", data)
    try:
        return Fields(prefix, json.loads(body))
    except ValueError:
        return None
