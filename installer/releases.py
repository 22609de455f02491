"""Names of the releases in a depot, by looking alone."""

from __future__ import annotations

from pathlib import Path


def releases(depot: Path) -> list[str]:
    """Imported releases by name; none where there is no depot.

    Raises:
        ResourceError: there is one, and this user may not read it.
    """
    try:
        names = [entry.name for entry in (depot / "bundles").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(n for n in names if not n.startswith("."))
