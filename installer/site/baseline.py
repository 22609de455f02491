"""docs/baseline.md: its words from beside this table, its tables from the role os_baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TREE = Path(__file__).parents[2]
TABLE = TREE / "roles/os_baseline/vars/main.yml"
WAIVERS = TREE / "roles/os_baseline/files/bp028-waivers.yml"
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
        ids = (", ".join(c.get(k, [])) or "-" for k in ("cis", "anssi", "nsa", "devsec"))
        yield f"| `{c['id']}` | {title} | {on} | `{c['check']}` | {' | '.join(ids)} |\n"


def table() -> str:
    """All controls as Markdown, and what is left of others' lists."""
    document = yaml.safe_load(TABLE.read_text())
    head = (
        "| control | what holds | on | check | CIS | ANSSI | NSA/CISA | dev-sec |\n|---|---|---|---|---|---|---|---|\n"
    )
    waivers = yaml.safe_load(WAIVERS.read_text())
    until = f"\n### Waived of {waivers['profile']}, until {waivers['expires']}\n| rules | why |\n|---|---|\n"
    return "".join([
        head, *rows(document["os_baseline_controls"]),
        "\n### Left of dev-sec's profiles\n| controls | why |\n|---|---|\n", *left(document["os_baseline_devsec_left"], "ids", "why"),
        until, *left(waivers["waivers"], "rules", "reason"),
    ])  # fmt: skip


def left(entries: list[dict[str, Any]], names: str, why: str) -> Iterator[str]:
    """A line for each group of what is not met, with its reason."""
    for entry in entries:
        yield f"| {', '.join(entry[names])} | {entry[why]} |\n"


def page() -> str:
    """The page with a fresh table between its two marks."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
