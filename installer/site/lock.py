"""One change of a site at a time, from this control host."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from engine.errors import ResourceError


@contextmanager
def exclusive(runs: Path) -> Iterator[None]:
    """Nobody else installs or rolls back while the block runs. The kernel lets go of the lock when the process ends, however it ends.

    Raises:
        ResourceError: somebody does already; says who and since when.
    """
    with (runs / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                f"another install is running on this control host{_who(runs)}",
                where=str(runs),
                remedy="Wait for it to end.",
            ) from error
        handle.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        handle.write(
            json.dumps(
                {"pid": os.getpid(), "user": os.environ.get("SUDO_USER") or os.environ.get("USER", ""), "since": since}
            )
        )
        handle.flush()
        yield


def _who(runs: Path) -> str:
    """What the holder wrote of itself; empty when it had no time to."""
    try:
        told = json.loads((runs / ".lock").read_text())
        return f": process {int(told['pid'])} of {str(told['user']) or 'root'} on {socket.gethostname()}, since {told['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
