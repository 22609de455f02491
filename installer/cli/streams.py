"""Standard input, output and error, whatever they were connected to when the command began."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from engine import refusals
from engine.errors import ResourceError


def settle() -> None:
    """Make all three usable.

    One that was closed becomes the null device: a file that a command opens must never take its number, or what is printed would go into
    it. A character that the terminal's encoding does not have is shown as its escape, as Python does on standard error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _to_null(number)
        if getattr(sys, name) is None:
            mode, buffer = ("r", io.BufferedReader) if number == 0 else ("w", io.BufferedWriter)
            raw = io.FileIO(number, mode, closefd=False)
            setattr(sys, name, io.TextIOWrapper(buffer(raw), encoding="utf-8", errors="backslashreplace"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def results() -> Iterator[TextIO]:
    """Standard output, for results: they arrive, or the command says that they did not.

    Raises:
        BrokenPipeError: the reader left.
        ResourceError: the file or device behind it took no more.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        found = refusals.explained(error)
        what = found.what if found else error.strerror
        raise ResourceError(
            f"cannot write the result: {what}", where="standard output", remedy="Let it lead to a place with room."
        ) from error


def tell(text: str) -> None:
    """A line for people on standard error. Where that takes no more, the work goes on without it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def abandon() -> None:
    """Let go of what cannot be written any more, so that the interpreter does not try again at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_null(number)


def _to_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number, inheritable=True)
        os.close(opened)
    else:
        os.set_inheritable(number, True)
