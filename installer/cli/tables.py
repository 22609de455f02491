"""Tables for people: no name, number or digest is ever cut or broken, however narrow the screen.

Only spaces are places to break a line. Where the longest words of all columns do not fit side by side, every row becomes a paragraph:
its first cells, and below them one line for each other cell. What is not a terminal has no width: there every row is one line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from engine.report import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

GAP = 2  # columns between two cells


class Table:
    """Rows under headers, for ``Screen.result``.

    Args:
        headers: of the columns; one may be empty.
        caption: a line below the rows.
    """

    def __init__(self, *headers: str, caption: str = "") -> None:
        self.headers = headers
        self.rows: list[tuple[str, ...]] = []
        self.caption = caption

    def add_row(self, *cells: str) -> None:
        """One row; cells that are left out are empty. A line break within a cell stays one on a terminal.

        Raises:
            ValueError: there are more cells than headers.
        """
        if len(cells) > len(self.headers):
            raise ValueError(f"{len(cells)} cells for {len(self.headers)} columns")
        clean = [printable(cell, keep="\n") for cell in cells]
        self.rows.append((*clean, *[""] * (len(self.headers) - len(cells))))

    def lines(self, width: int | None = None) -> list[str]:
        """The rows as text, headers first.

        Args:
            width: columns of the screen; None for no limit, where every row is one line.
        """
        headers, rows = self._laid(width)
        return [*headers, *rows]

    def _laid(self, width: int | None) -> tuple[list[str], list[str]]:
        """Lines of the headers, which are none above paragraphs, and lines of the rows."""
        if width is None:
            table = [self.headers, *(tuple(map(_flat, row)) for row in self.rows)]
            widths = _naturals(table)
        else:
            table = [self.headers, *self.rows]
            widths = fitting(_naturals(table), _longest_words(table), width - GAP * (len(self.headers) - 1))
        if not widths:
            return [], [line for row in self.rows for line in self._paragraph(row)]
        return _beside(self.headers, widths), [line for row in table[1:] for line in _beside(row, widths)]

    def _paragraph(self, row: tuple[str, ...]) -> list[str]:
        """A row on a screen that is too narrow for columns. Cells without a header say something of the first one, such as "ok"."""
        cells = list(zip(self.headers, row, strict=True))
        title = (GAP * " ").join(_flat(c) for number, (h, c) in enumerate(cells) if c and (number == 0 or not h))
        return [title, *(f"  {h}: {_flat(c)}" for h, c in cells[1:] if h and c)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        headers, rows = self._laid(options.max_width if console.is_terminal else None)
        yield from (Text(line, style="bold") for line in headers)
        yield from map(Text, [*rows, *([printable(self.caption)] if self.caption else [])])


def fitting(naturals: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns that take ``room`` together; empty where the longest words alone take more. Pure.

    Args:
        naturals: the width that each column would like.
        least: the width below which it would have to break a word.
        room: columns of the screen, without the gaps.

    What is left after the longest words goes to the columns that need the least first, so that short ones stay on one line.
    """
    left = room - sum(least)
    if left < 0:
        return []
    widths = list(least)
    wanting = sorted(range(len(least)), key=lambda i: naturals[i] - least[i])
    for place, i in enumerate(wanting):
        more = min(naturals[i] - least[i], left // (len(wanting) - place))
        widths[i] += more
        left -= more
    return widths


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns, broken at spaces and nowhere else; a longer word has a line of its own. Pure."""
    lines = []
    for line in text.split("\n"):
        if cell_len(line) <= width:
            lines.append(line)
            continue
        now = ""
        for word in line.split(" "):
            if now and cell_len(now) + 1 + cell_len(word) > width:
                lines.append(now)
                now = word
            else:
                now = f"{now} {word}" if now else word
        lines.append(now)
    return lines


def _beside(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The lines of one row with its cells beside each other."""
    cells = [wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    lines = []
    for parts in itertools.zip_longest(*cells, fillvalue=""):
        padded = (part + " " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True))
        lines.append((GAP * " ").join(padded).rstrip())
    return lines


def _naturals(table: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(cell_len(line) for c in column for line in c.split("\n")) for column in zip(*table, strict=True)]


def _longest_words(table: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(cell_len(word) for c in column for word in c.split() or [""]) for column in zip(*table, strict=True)]


def _flat(cell: str) -> str:
    return ", ".join(cell.split("\n"))
