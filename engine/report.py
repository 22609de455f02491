"""What long work tells the outside while it runs. The core calls it; a screen, a log or nothing listens."""

from __future__ import annotations

from typing import Protocol

from engine.printable import printable

__all__ = ["Report", "Silent", "printable"]


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
