"""A release that waits for signatures: what it lists, for those who decide whether it shall get them. Nothing here makes it trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine import metadata, trust
from engine.memory import require_follows
from engine.trust import Trusted
from installer.trust import sign
from installer.trust.keys import read_root


def is_draft(bundle: Path) -> bool:
    """Whether a bundle has a list of files and no timestamp, so that no client takes it."""
    return metadata.has(bundle, "targets.json") and not metadata.has(bundle, "timestamp.json")


def listed(bundle: Path, pinned_root: bytes) -> Trusted:
    """What the draft lists, with the newest root that the pinned one leads to.

    Raises:
        InputError: the list is missing or malformed.
        TrustError: a root of the chain or a path in the list is not allowed.
    """
    files = metadata.read(bundle)
    root, version = pinned_root, read_root(pinned_root, "the pinned root").version
    while (following := files.roots.get(version + 1)) is not None:
        require_follows(root, following, version + 1)
        root, version = following, version + 1
    return replace(trust.listing(sign.draft_of(files).signed, version, root), metadata=files.content)
