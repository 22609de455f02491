"""A release that waits for signatures: what it lists, for those who decide whether it shall get them. Nothing here makes it trusted."""

from __future__ import annotations

from pathlib import Path

from engine import tree, trust
from engine.memory import require_follows
from engine.trust import Trusted
from installer.trust import sign
from installer.trust.keys import read_root


def is_draft(bundle: Path) -> bool:
    """Whether a bundle has a list of files and no timestamp, so that no client takes it."""
    metadata = bundle / "metadata"
    return (metadata / "targets.json").exists() and not (metadata / "timestamp.json").exists()


def listed(bundle: Path, pinned_root: bytes) -> Trusted:
    """What the draft lists, with the newest root that the pinned one leads to.

    Raises:
        InputError: the list is missing or malformed.
        TrustError: a root of the chain or a path in the list is not allowed.
    """
    root, version = pinned_root, read_root(pinned_root, "the pinned root").version
    while (following := _root(bundle, version + 1)) is not None:
        require_follows(root, following, version + 1)
        root, version = following, version + 1
    return trust.listing(sign.read_draft(bundle / "metadata" / "targets.json").signed, version, root)


def _root(bundle: Path, version: int) -> bytes | None:
    try:
        with tree.open_beneath(bundle, f"metadata/{version}.root.json") as file:
            return file.read(trust.CONFIG.root_max_length)
    except FileNotFoundError:
        return None
