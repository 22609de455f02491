"""What long work tells the outside while it runs. The core calls it; a screen, a log or nothing listens."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Receives progress. Implementations must be safe to call from several threads."""

    def say(self, text: str) -> None:
        """One line about something that happened."""

    def begin(self, task: str, total_bytes: int | None = None) -> None:
        """A step starts; ``total_bytes`` when its size is known."""

    def advance(self, task: str, n_bytes: int) -> None:
        """``n_bytes`` more of the step are done."""

    def end(self, task: str) -> None:
        """The step is finished."""


class Silent:
    """Listens to nothing."""

    def say(self, text: str) -> None: ...

    def begin(self, task: str, total_bytes: int | None = None) -> None: ...

    def advance(self, task: str, n_bytes: int) -> None: ...

    def end(self, task: str) -> None: ...


def printable(text: str, keep: str = "\n\t") -> str:
    """``text`` without characters that would steer a terminal: names on a medium may be made to hide what is said of them.

    Args:
        keep: control characters that stay; none in a single name, whose line break would forge a line.

    Surrogates, which stand for bytes that are no UTF-8, are shown as ``\\udc..``.
    """
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
