"""What is known of a store's health: how far the running pass is, when the last one ended, what is bad. One JSON file.

The file carries the SHA-256 of its own content, so that a damaged one is noticed and not believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine import durable, strictjson
from engine.errors import TrustError

SCHEMA = 1


@dataclass(frozen=True)
class Bad:
    """A blob that is not what its name says. ``size`` in bytes; ``paths`` are the names it had in views, RELEASE/content/…"""

    sha256: str
    found: str
    size: int
    at: str
    kept: str
    paths: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass:
    """One walk over all blobs, by their names in order. ``cursor`` is the last one that is done; times are ISO 8601 UTC."""

    started: str
    cursor: str = ""
    files: int = 0
    size: int = 0
    ended: str = ""


@dataclass(frozen=True)
class State:
    """Everything the file says. ``total`` counts the bytes hashed since the first pass ever."""

    running: Pass | None = None
    last: Pass | None = None
    bad: tuple[Bad, ...] = ()
    unsigned: tuple[str, ...] = ()
    total: int = 0

    def write(self, path: Path) -> None:
        body = {"schema": SCHEMA, **asdict(self)}
        durable.write(path, json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n")


def read(path: Path) -> State:
    """The state; a new one when there is none.

    Raises:
        TrustError: the file is damaged or not ours.
    """
    try:
        found = strictjson.loads(path.read_bytes())
        if found.pop("sha256") != _digest(found) or found.pop("schema") != SCHEMA:
            raise ValueError("its digest or schema is another")
        return State(
            running=_pass(found["running"]), last=_pass(found["last"]), total=int(found["total"]),
            unsigned=tuple(found["unsigned"]),
            bad=tuple(Bad(**{**b, "paths": tuple(b["paths"]), "services": tuple(b["services"])}) for b in found["bad"]),
        )  # fmt: skip
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError(
            f"the record of verification is damaged: {error}", where=str(path),
            remedy="Delete it; the next pass starts from the beginning. What was set aside stays in blobs/quarantine.",
        ) from error  # fmt: skip


def _pass(found: Mapping[str, Any] | None) -> Pass | None:
    return Pass(**found) if found else None


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
