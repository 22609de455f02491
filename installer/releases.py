"""Names of the releases in a depot, by looking alone."""

from __future__ import annotations

import os


def releases(depot: str | os.PathLike[str]) -> list[str]:
    """Imported releases by name; none where there is no depot."""
    try:
        names = os.listdir(os.path.join(depot, "bundles"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(n for n in names if not n.startswith("."))
