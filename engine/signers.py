"""Whose signatures a bundle's metadata carries, of those that count for each role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Root

from engine.errors import TrustError
from engine.trust import ASK, Trusted

ROLES = ("targets", "snapshot", "timestamp", "root")


@dataclass(frozen=True)
class Signer:
    """A key that may sign for a role. ``signed``: its signature is there and was checked."""

    keyid: str
    type: str
    signed: bool


@dataclass(frozen=True)
class Role:
    """Who may sign for ``name`` and who did; ``needed`` signatures put it into force."""

    name: str
    needed: int
    signers: tuple[Signer, ...]

    @property
    def signed(self) -> tuple[str, ...]:
        """Ids of the keys that have signed."""
        return tuple(s.keyid for s in self.signers if s.signed)

    @property
    def enough(self) -> bool:
        return len(self.signed) >= self.needed


def read(trusted: Trusted) -> tuple[Role, ...]:
    """Every role with its keys by the root in force; each signature is checked here again.

    A draft has no snapshot and timestamp yet: nobody has signed them.

    Args:
        trusted: what ``open_bundle`` gave, or the list of a draft with the root that judges it.

    Raises:
        TrustError: the draft's metadata is malformed.
    """
    root = Metadata[Root].from_bytes(trusted.root)
    found = []
    for name in ROLES:
        metadata: Metadata[Any] | None = root if name == "root" else _metadata(trusted, name)
        signed: set[str] = set()
        if metadata is not None:
            payload = metadata.signed_bytes
            signed = set(root.signed.get_verification_result(name, payload, metadata.signatures).signed)
        role = root.signed.roles[name]
        keys = sorted(role.keyids)
        found.append(
            Role(name, role.threshold, tuple(Signer(k, root.signed.keys[k].keytype, k in signed) for k in keys))
        )
    return tuple(found)


def _metadata(trusted: Trusted, role: str) -> Metadata[Any] | None:
    data = trusted.metadata.get(f"{role}.json")
    if data is None:
        return None
    try:
        return Metadata.from_bytes(data)
    except Exception as error:  # python-tuf raises many types on malformed input
        raise TrustError(
            f"not the metadata of a release: {error}", where=f"metadata/{role}.json", remedy=ASK
        ) from error
