"""A store's health in the text format of Prometheus, for the textfile collector of the node exporter. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from engine.store.state import State

PREFIX = "appliance_store"


def render(state: State) -> str:
    """Every metric with its help; times in seconds since 1970, sizes in bytes. Without a complete pass its time is 0."""
    last, running = state.last, state.running
    samples: Sequence[tuple[str, str, str, float]] = (
        ("verified_bytes_total", "counter", "Bytes hashed again since the first pass.", state.total),
        ("last_complete_pass_timestamp_seconds", "gauge", "When a pass over all content last ended.", _seconds(last.ended if last else "")),
        ("last_complete_pass_bytes", "gauge", "Bytes that pass hashed.", last.size if last else 0),
        ("last_complete_pass_files", "gauge", "Files that pass hashed.", last.files if last else 0),
        ("running_pass_bytes", "gauge", "Bytes that the pass under way has hashed; 0 when none is.", running.size if running else 0),
        ("bad_files", "gauge", "Files that were not what was signed and have not been fetched again.", len(state.bad)),
        ("unsigned_files", "gauge", "Names in views that are not the file that was signed under them.", len(state.unsigned)),
    )  # fmt: skip
    lines = []
    for name, kind, about, value in samples:
        lines += [f"# HELP {PREFIX}_{name} {about}", f"# TYPE {PREFIX}_{name} {kind}", f"{PREFIX}_{name} {value:.0f}"]
    touched = sorted({s for b in state.bad for s in b.services})
    if touched:
        lines += [f"# HELP {PREFIX}_bad_service Services that read a bad file.", f"# TYPE {PREFIX}_bad_service gauge"]
        lines += [f'{PREFIX}_bad_service{{service="{_label(s)}"}} 1' for s in touched]
    return "\n".join(lines) + "\n"


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp() if iso else 0.0


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
