"""Roots that were verified before, kept for whoever pins a root by hand and has no other state.

``appliance verify --root`` and the starting kit's ./verify keep every root that they have followed from the pinned one (TUF specification
5.3.8): once a bundle has brought the root that revokes a key, what that key signed is refused, also when that bundle itself was refused.

    DIRECTORY/SHA-256 of the pinned root/N.root.json
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from engine.durable import disk_errors
from engine.errors import ApplianceError
from engine.memory import Memory


class RootStore:
    """Verified roots below ``directory``, by the pinned root that they were followed from."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def newest(self, pinned_root: bytes) -> bytes:
        """The newest root known that ``pinned_root`` leads to; itself where none is known.

        Raises:
            TrustError: the pinned root is damaged, or a stored one does not follow.
            ResourceError: the store cannot be read.
        """
        with disk_errors(self._directory):
            return self._memory(pinned_root).proven_root()

    def keep(self, pinned_root: bytes, chain: Mapping[int, bytes]) -> None:
        """Store those of ``chain`` that follow from what is known. A place that cannot be written is no reason to fail: then
        the next check starts from the pinned root again."""
        try:
            self._memory(pinned_root).follow(chain)
        except (ApplianceError, OSError):
            return

    def _memory(self, pinned_root: bytes) -> Memory:
        return Memory(self._directory / hashlib.sha256(pinned_root).hexdigest(), pinned_root)


def of_user(environment: Mapping[str, str] | None = None) -> RootStore | None:
    """The store of the user who runs this, by the XDG base directory specification; None for one without a home."""
    known = os.environ if environment is None else environment
    state = known.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        home = known.get("HOME", "")
        if not home.startswith("/"):
            return None
        state = f"{home}/.local/state"
    return RootStore(Path(state) / "appliance" / "roots")
