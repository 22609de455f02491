"""Every fuzz target by name."""

from __future__ import annotations

from tests.fuzz import patching, signing, targets
from tests.fuzz.targets import FuzzTarget

TARGETS: dict[str, FuzzTarget] = {**targets.TARGETS, **signing.TARGETS, **patching.TARGETS}
