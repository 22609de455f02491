"""docs/baseline.md: its words from beside this table, its table from the controls of the role os_baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TREE = Path(__file__).parents[2]
TABLE = TREE / "roles/os_baseline/vars/main.yml"
PAGE = TREE / "docs/baseline.md"
BEGIN, END = "<!-- controls: made by ./run docs -->\n", "<!-- end of controls -->\n"


def rows(controls: list[dict[str, Any]]) -> Iterator[str]:
    """A line a control."""
    for c in controls:
        default = c.get("default", True)
        on = "report" if c.get("enforced") is False else "yes" if default is True else "when asked"
        if c.get("level", 1) > 1:
            on = "level 2"
        title = c["title"] + (". *" + c["why"].rstrip() + "*" if c.get("why") else "")
        ids = (", ".join(c[k]) or "-" for k in ("cis", "anssi", "nsa"))
        yield f"| `{c['id']}` | {title} | {on} | `{c['check']}` | {' | '.join(ids)} |\n"


def table() -> str:
    """All controls as Markdown."""
    controls = yaml.safe_load(TABLE.read_text())["os_baseline_controls"]
    head = "| control | what holds | on | check | CIS | ANSSI | NSA/CISA |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(rows(controls))


def page() -> str:
    """The page with a fresh table between its two marks."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
