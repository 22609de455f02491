"""Values of environment variables out of what people see and runs keep. Pure.

Nothing marks a variable of a service or container as secret, and some are: keys of licences, tokens of a metrics collector. So all values
count as secret in records; the nodes' files have them, readable for root alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "(not shown)"
# Characters from which on a value is also left out where its name does not stand before it; shorter ones are words that others use.
ALONE = 8


def of_site(site: Mapping[str, Any]) -> dict[str, Any]:
    """The site as data, with names of variables and without their values."""
    shown = dict(site)
    for kind in ("services", "containers"):
        if shown.get(kind):
            shown[kind] = [_named_only(entry) for entry in shown[kind]]
    return shown


def _named_only(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "environment": dict.fromkeys(entry.get("environment") or {}, HIDDEN)}


def without(text: str, environments: Iterable[Mapping[str, str]]) -> str:
    """``text`` without the values, as they are written in files, in JSON and in Python's own form."""
    pairs = {(name, value) for environment in environments for name, value in environment.items() if value}
    for name, value in sorted(pairs, key=lambda p: (-len(p[1]), p)):
        forms = sorted({value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]})
        anywhere = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        behind = rf"((?<![\w]){re.escape(name)}\\?[\"']?\s*[=:]\s*\\?[\"']?)(?:{anywhere})"
        text = re.sub(behind, lambda match: match[1] + HIDDEN, text)
        if len(value) >= ALONE:
            text = re.sub(anywhere, HIDDEN, text)
    return text
