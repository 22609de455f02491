"""The sheet that is printed and goes with a volume."""

from __future__ import annotations

from datetime import datetime

from installer.carry.plan import Volume


def label(release: str, number: int, total: int, volume: Volume, name: str, now: datetime) -> str:
    """The label and custody sheet of volume ``number`` of ``total``, for print; ``name`` is the volume's directory."""
    lines = "\n".join(
        f"  {n:>2}. received ______________  from ____________________  to ____________________" for n in range(1, 7)
    )
    return f"""{release}
VOLUME {number} OF {total}
{"=" * 60}
files   {len(volume.items):,}
bytes   {volume.size:,}
written {now:%Y-%m-%d %H:%M} UTC

Check this volume alone:   appliance verify --root root.json {name}
Take it in, in any order:  appliance import {name}
Write it again, if it is damaged, beside the others' media:
                           appliance split … --only {number}

Custody
{lines}
"""
