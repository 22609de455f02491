"""The last net: whatever leaves a command that fetches is said without this host's secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ApplianceError
from engine.report import Report
from installer.network.host import Network


class Hiding:
    """A report that passes on everything but secrets."""

    def __init__(self, report: Report, network: Network) -> None:
        self._report, self._network = report, network

    def say(self, text: str) -> None:
        self._report.say(self._network.hide(text))

    def begin(self, task: str, total_bytes: int | None = None) -> None:
        self._report.begin(task, total_bytes)

    def advance(self, task: str, n_bytes: int) -> None:
        self._report.advance(task, n_bytes)

    def end(self, task: str) -> None:
        self._report.end(task)


@contextmanager
def hidden(network: Network) -> Iterator[None]:
    """Errors that pass are told without secrets: a tool below may repeat an address that it was given."""
    try:
        yield
    except ApplianceError as error:
        error.what, error.where, error.remedy = (network.hide(t) for t in (error.what, error.where, error.remedy))
        error.args = (error.what,)
        raise
    except Exception as error:
        error.args = tuple(network.hide(a) if isinstance(a, str) else a for a in error.args)
        raise
