"""README.txt of a bundle, for the person who holds the drive."""

from __future__ import annotations

from installer.definition import Definition
from installer.lockfile import KIND_ORDER, Lock

TEXT = """{release}
{rule}
{description}

This directory is an offline bundle made by appliance. It is a plain tree of files: anything here may be read,
scanned and hashed with ordinary tools. Nothing in it may be used before it was verified.

What is inside
{table}

How to check it
  On a host that has appliance and your pinned root of trust (root.json, given to you on another way than this drive):

      appliance verify --root root.json {release}

  On a host that has neither: with the starting kit, which travels on a medium of its own:

      ./verify {release}

  It names every file that is missing, extra, changed or unsigned. A drive that fails is not to be used.
  The root of trust must never be taken from this drive.

How to install it
      appliance install -i INVENTORY --root root.json {release}

For:  {os}, {arch}, Python {python}
"""


def render(definition: Definition, lock: Lock) -> str:
    """The text; depends on nothing but definition and lock."""
    rows = []
    for kind in KIND_ORDER:
        if artifacts := lock.of_kind(kind):
            rows.append(
                f"  content/{kind + '/':<12} {len(artifacts):>6} files {sum(a.size for a in artifacts):>16,} bytes"
            )
    return TEXT.format(
        release=definition.release, rule="=" * len(definition.release), description=definition.description or "(no description)",
        table="\n".join(rows), os=definition.target.os, arch=definition.target.arch, python=definition.target.python,
    )  # fmt: skip
