"""The states that this node keeps to go back to: list them, or drop old ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import ResourceError
from engine.generation.states import beyond, drop, listed
from engine.generation.store import Store


def answer(question: Mapping[str, Any], root: Path = Path("/")) -> dict[str, Any]:
    """``question``: ``keep``, how many states stay, or None to list them; ``check``, to remove nothing.

    Returns:
        What ``listed`` or ``drop`` returns; with the latter also ``kept``, the states that stay.

    Raises:
        ResourceError: a switch has begun and not ended, or an install keeps a state right now.
    """
    store = Store(root)
    if question.get("keep") is None:
        return listed(store)
    if not store.numbers():
        return {"generations": [], "removed": [], "freed_bytes": 0, "kept": []}
    with store.exclusive():
        if (begun := store.begun()) is not None:
            raise ResourceError(
                f"a switch to generation {begun} has begun and not ended", where=str(store.directory),
                remedy="End it first, with `appliance rollback` or `appliance install`.",
            )  # fmt: skip
        gone = beyond(store, int(question["keep"]))
        kept = [{"number": n, "release": store.load(n).release} for n in store.numbers() if n not in gone]
        return {**drop(store, gone, check=bool(question.get("check"))), "kept": kept}
