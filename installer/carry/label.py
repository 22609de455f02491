"""The sheet that is printed and goes with a volume."""

from __future__ import annotations

import re
from datetime import datetime

from installer.carry.plan import Volume

WRITTEN = re.compile(r"^written ([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}) UTC$", re.MULTILINE)
MAX_LABEL = 64 << 10  # bytes


def label(
    release: str, number: int, total: int, volume: Volume, name: str, now: datetime, *, delta: bool = False
) -> str:
    """The label and custody sheet of volume ``number`` of ``total``, for print; ``name`` is the volume's directory.

    Args:
        delta: the set does not hold the whole release; the depot has the rest.
    """
    return text(release, number, total, len(volume.items), volume.size, name, f"{now:%Y-%m-%d %H:%M}", delta=delta)


def is_label(found: str, release: str, number: int, total: int, files: int, size: int) -> bool:
    """Whether ``found`` is what ``label`` writes for this volume, at whatever time. It has commands that people type, and nobody
    signed it.
    """
    written = WRITTEN.search(found)
    name = f"{release}.{number}-of-{total}"
    return written is not None and found in {
        text(release, number, total, files, size, name, written[1], delta=delta) for delta in (False, True)
    }


def text(release: str, number: int, total: int, files: int, size: int, name: str, written: str, *, delta: bool) -> str:
    """The sheet's text. ``size`` in bytes."""
    lines = "\n".join(
        f"  {n:>2}. received ______________  from ____________________  to ____________________" for n in range(1, 7)
    )
    return f"""{release}
VOLUME {number} OF {total}
{"=" * 60}
files   {files:,}
bytes   {size:,}
written {written} UTC

Check this volume alone:   appliance verify --root root.json {"--depot DEPOT " if delta else ""}{name}
Take it in, in any order:  appliance import {name}
Write it again, if it is damaged, beside the others' media:
                           appliance split … --only {number}

Custody
{lines}
"""
