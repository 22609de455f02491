"""docs/baseline.md: its words from beside this table, its tables from the role os_baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

TREE = Path(__file__).parents[2]
TABLE = TREE / "roles/os_baseline/vars/main.yml"
WAIVERS = ("bp028-waivers.yml", "devsec-waivers.yml")
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
    """All controls as Markdown, and what is waived of others' lists."""
    document = yaml.safe_load(TABLE.read_text())
    head = (
        "| control | what holds | on | check | CIS | ANSSI | NSA/CISA | dev-sec |\n|---|---|---|---|---|---|---|---|\n"
    )
    parts = [head, *rows(document["os_baseline_controls"])]
    for name in WAIVERS:
        waivers = yaml.safe_load((TABLE.parents[1] / "files" / name).read_text())
        parts.append(f"\n### Waived of {waivers['profile']}, until {waivers['expires']}\n| rules | why |\n|---|---|\n")
        parts += left(waivers["waivers"])
    return "".join(parts)


def left(entries: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each group of what is not met, with its reason."""
    for entry in entries:
        yield f"| {', '.join(entry['rules'])} | {entry['reason']} |\n"


def page() -> str:
    """The page with a fresh table between its two marks."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())
