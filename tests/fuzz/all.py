"""Every fuzz target by name."""

from __future__ import annotations

from tests.fuzz import evidence, licences, metadatas, patching, preflight, signing, sources, targets
from tests.fuzz.targets import FuzzTarget

TARGETS: dict[str, FuzzTarget] = {
    **targets.TARGETS,
    **signing.TARGETS,
    **sources.TARGETS,
    **preflight.TARGETS,
    **patching.TARGETS,
    **evidence.TARGETS,
    **licences.TARGETS,
    **metadatas.TARGETS,
}
