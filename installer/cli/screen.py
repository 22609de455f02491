"""The three outputs of every command: human text, ``--json``, exit code."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engine.errors import ApplianceError
from engine.report import printable
from installer.cli import streams

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

UNLIMITED = 100_000  # columns
LINE_EVERY_S = 10.0  # how often a step speaks when nobody watches a terminal


class Screen:
    """Where a command's words go.

    Results go to standard output; progress and remarks go to standard error, so that a pipe gets results alone.
    With ``json_output`` the result is one JSON document and remarks are dropped. With ``quiet`` only results
    and errors appear. Bars are drawn on a terminal only; elsewhere each step prints plain lines.
    """

    def __init__(self, *, json_output: bool = False, quiet: bool = False) -> None:
        self.json_output = json_output
        self.quiet = quiet or json_output
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()

    @cached_property
    def out(self) -> Console:
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        return _console(stderr=True)

    # -- results and remarks ------------------------------------------------------------------
    def result(self, data: Any, human: RenderableType | None = None) -> None:
        """Print the command's result: ``data`` as JSON, or ``human`` for people."""
        with streams.results() as out:
            if self.json_output:
                out.write(json.dumps(data, indent=2, sort_keys=True, default=str) + "\n")
            elif isinstance(human, str):
                out.write(printable(human) + "\n")
            elif human is not None:
                self.out.print(human)

    def show(self, table: RenderableType) -> None:
        """Something for people before the result."""
        with streams.results():
            self.out.print(table)

    def say(self, text: str) -> None:
        """One line on standard error; above the bars while there are any."""
        if self.quiet:
            return
        if self._bars:
            self._bars.console.print(printable(text))
        else:
            streams.tell(printable(text))

    def next(self, *commands: str) -> None:
        """The line after a result that names the command to follow; several where the next step is the reader's choice."""
        self.say(f"next: {'; or '.join(commands)}")

    def error(self, error: ApplianceError) -> None:
        """Say what happened, where, and how to mend it."""
        if self.json_output:
            body = {"what": error.what, "where": error.where, "remedy": error.remedy, "exit_code": int(error.exit_code)}
            with (
                contextlib.suppress(ApplianceError, BrokenPipeError),
                streams.results() as out,
            ):  # the exit code remains
                out.write(json.dumps({"error": body}, indent=2, sort_keys=True) + "\n")
            return
        where = f"{error.where}: " if error.where else ""
        remedy = f"\n       {error.remedy}" if error.remedy else ""
        streams.tell(printable(f"error: {where}{error.what}{remedy}"))

    # -- progress -----------------------------------------------------------------------------
    def __enter__(self) -> Screen:
        if not self.quiet and sys.stderr.isatty() and self.err.is_terminal:
            from installer.cli.bars import bars

            self._bars = bars(self.err)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def node(self, name: str, doing: str, number: int = 0, of: int = 0) -> None:
        """What a node does now: a line that is rewritten on a terminal, nothing elsewhere.

        Args:
            number: of its step among ``of``, from 1; 0 leaves the count as it was.
        """
        with self._lock:
            if not self._bars:
                return
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, steps=True)
            line = self._tasks[name]
            if number:
                self._bars.update(line, total=of, completed=number - 1, number=number, of=of)
            self._bars.update(line, description=printable(f"{name}  {doing[:60]}"))

    def whole(self, name: str, last_s: float | None) -> None:
        """A line for the whole command on a terminal: for how long it runs, and how many seconds it took last time."""
        with self._lock:
            if self._bars and name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, last_s=last_s or 0)

    def begin(self, task: str, total_bytes: int | None = None) -> None:
        with self._lock:
            if self._bars:
                self._tasks[task] = self._bars.add_task(task, total=total_bytes)
            else:
                self._lines[task] = _Line(total_bytes)

    def advance(self, task: str, n_bytes: int) -> None:
        with self._lock:
            if self._bars and task in self._tasks:
                self._bars.advance(self._tasks[task], n_bytes)
            elif task in self._lines and (text := self._lines[task].advance(n_bytes)):
                self.say(f"{task}: {text}")

    def end(self, task: str) -> None:
        with self._lock:
            if self._bars and task in self._tasks:
                self._bars.remove_task(self._tasks.pop(task))
            line = self._lines.pop(task, None)
        self.say(f"{task}: done{line.summary() if line else ''}")


def _console(*, stderr: bool) -> Console:
    """A console that takes every text as it is: a name with brackets is a name.

    Rich is imported for tables and bars alone: it takes longer to import than most commands take to answer.
    """
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = UNLIMITED  # a pipe or a file has no width to which lines would have to be cut
    return console


class _Line:
    """Progress of one step as occasional plain lines."""

    def __init__(self, total: int | None) -> None:
        self.total, self.done = total, 0
        self.started = self.spoke = time.monotonic()

    def advance(self, n_bytes: int) -> str:
        self.done += n_bytes
        now = time.monotonic()
        if now - self.spoke < LINE_EVERY_S:
            return ""
        self.spoke = now
        of = f" of {size(self.total)}" if self.total else ""
        return f"{size(self.done)}{of}, {size(int(self.done / (now - self.started)))}/s"

    def summary(self) -> str:
        took = time.monotonic() - self.started
        return f", {size(self.done)} in {took:.1f} s" if self.done else f" in {took:.1f} s"


def seconds(n_s: float) -> str:
    """A duration for people: ``43 s``, ``2 min 5 s``, ``1 h 2 min``."""
    whole = round(n_s)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str) -> str:
    """A number of things, for people: ``1 file``, ``2 files``. Pure."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(n_bytes: int | None) -> str:
    """A size for people, in decimal units: 1234567 is ``1.2 MB``."""
    value = float(n_bytes or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
