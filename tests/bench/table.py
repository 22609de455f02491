"""Measured lines as the table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.bench.measure import Claim


def claim(it: Claim) -> str:
    """A claim in words."""
    return f"{it.name}: {'at least' if it.higher else 'at most'} {it.target:g} x {it.baseline}"


def render(lines: Iterable[dict[str, Any]]) -> str:
    """Markdown: the machine first, then a row a claim, missed ones marked."""
    out = ""
    for line in lines:
        if line["name"] == "machine":
            out += (
                f"{line['cpu']}, {line['cores']} cores, {line['memory_gib']} GiB, Linux {line['kernel']}, "
                f"Python {line['python']}, load {line['load']} at the start\n\n"
                "| group | claim | ours | baseline | ratio | best | target | met | rounds | load |\n|---|---|---|---|---|---|---|---|---|---|\n"
            )
            continue
        ours, baseline = (_value(line[k], line["unit"]) for k in ("value", "baseline_value"))
        met = "yes" if line["met"] else "**no**"
        out += (
            f"| {line['group']} | {line['name']} | {ours} | {line['baseline']}: {baseline} | {line['ratio']:.3g} | "
            f"{line['best_ratio']:.3g} | {line['target']:g} | {met} | {line['rounds']} | {line['load']} |\n"
        )
    return out


def _value(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    if unit == "bytes/s":
        return f"{value / 1e9:.2f} GB/s"
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    if unit == "s/file":
        return f"{value * 1e6:.0f} µs/file"
    return f"{value:.3g} {unit}"
