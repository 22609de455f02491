"""The release before a bundle's own, among the bundles that lie beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine import metadata
from engine.errors import ApplianceError
from installer.evidence import contents, drafts
from installer.evidence.contents import Contents

MAX_BESIDE = 200  # bundles of one name that are looked at


@dataclass(frozen=True)
class Found:
    """The newest earlier release of the same name; ``refused`` names bundles that could not be opened, with the reason."""

    contents: Contents | None
    refused: tuple[tuple[str, str], ...] = ()


def beside(bundle: Path, pinned_root: bytes, this: Contents) -> Found:
    """Look beside ``bundle`` for releases of the same signed name that were signed before it.

    Each is opened with the same root of trust. The newest by its signed version counts, whatever its directory is called.
    """
    here = bundle.resolve()
    found: list[Contents] = []
    refused = []
    named = f"{this.trusted.name}-"
    try:
        beside = sorted(here.parent.iterdir())
    except OSError as error:  # a reader of the bundle need not be one of the directory around it
        return Found(None, ((str(here.parent), f"the directory cannot be read ({error.strerror})"),))
    others = [p for p in beside if p.name.startswith(named) and p != here]
    for path in others[:MAX_BESIDE]:
        try:
            if not metadata.present(path) or drafts.is_draft(path):
                continue  # of a draft no site has anything
            other = contents.read(path, pinned_root)
        except (ApplianceError, OSError) as error:
            refused.append((path.name, error.what if isinstance(error, ApplianceError) else str(error.strerror)))
            continue
        same = other.trusted.name == this.trusted.name and other.trusted.release != this.trusted.release
        if same and other.trusted.version < this.trusted.version:
            found.append(other)
    newest = max(found, key=lambda c: c.trusted.version, default=None)
    return Found(newest, tuple(refused))
