"""What moves on a terminal while a command works: bytes of so many bytes, steps of so many steps, or the time."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from installer.cli.screen import seconds, size


class Amount(ProgressColumn):
    """How far a line is, in its own unit.

    A line's fields: ``number`` and ``of`` of its step where it counts steps; ``last_s``, the seconds that the same took last time.
    """

    def render(self, task: Task) -> Text:
        return Text(amount(task))


def amount(task: Task) -> str:
    """The words right of a bar: what is known of this line and nothing else."""
    number, of, last_s = (task.fields.get(name, 0) for name in ("number", "of", "last_s"))
    if number and of:
        return f"{number} of {of}"
    if task.fields.get("steps"):
        return ""  # a node that has not begun with its first step
    told = []
    if task.completed:
        told.append(size(int(task.completed)) + (f" of {size(int(task.total))}" if task.total else ""))
        if task.speed:
            told.append(f"{size(int(task.speed))}/s")
        if task.total and task.time_remaining:
            told.append(f"{seconds(task.time_remaining)} left")
    else:
        told.append(seconds(task.elapsed or 0))
    return ", ".join([*told, *([f"last time: {seconds(last_s)}"] if last_s else [])])


def bars(console: Console) -> Progress:
    """Lines that are rewritten in place, and vanish at the end."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), Amount(), console=console, transient=True
    )  # fmt: skip
