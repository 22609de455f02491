"""Standard output and error of the engine's verbs, whatever they were connected to when the verb began."""

from __future__ import annotations

import contextlib
import os
import sys

from engine import refusals
from engine.errors import Exit, ResourceError


def result(text: str) -> None:
    """Write a result. Where standard output was closed nobody wants it; elsewhere it arrives, or the verb says that it did not.

    Raises:
        ResourceError: the file or device behind it took no more.
        SystemExit: the reader left; there is nobody to tell.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _abandon()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(Exit.FAILED) from error
        found = refusals.explained(error)
        raise ResourceError(
            f"cannot write the result: {found.what if found else error.strerror}",
            where="standard output",
            remedy="Let it lead to a place with room.",
        ) from error


def tell(text: str) -> None:
    """Write to people on standard error. Where that takes no more, the exit code remains."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def terminal() -> bool:
    """Whether somebody watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def _abandon() -> None:
    """Let go of what standard output did not take, so that the interpreter does not try again at its end."""
    opened = os.open(os.devnull, os.O_WRONLY)
    os.dup2(opened, 1)
    os.close(opened)
