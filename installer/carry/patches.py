"""The signed list of the patches in a delta: metadata/patches.json, and patches/TARGET.patch beside content/.

The release's own metadata stays as it is: it says what the result must be. This list says only which files may lie in the
delta and be read, so that nothing unsigned gets as far as a decompressor. It is a DSSE envelope signed with the keys of
the role timestamp, which a builder has at hand: whoever had stolen them could waste a journey, but no result but the
signed one gets into a depot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from engine import metadata
from engine.errors import InputError, TrustError
from engine.report import printable
from engine.trust import Target, Trusted
from installer.carry.patchnames import KIND, LIST

TYPE = "application/vnd.appliance.patches+json"
ROLE = "timestamp"
REMEDY = "Make the delta again."

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=1 << 50)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Patch(_Frozen):
    """One patch file. Sizes in bytes; ``base_path`` and ``base_release`` are for messages."""

    sha256: Sha256
    size: Size
    target: Sha256
    target_size: Size
    base: Sha256
    base_size: Size
    base_path: Annotated[str, Field(max_length=1024)]
    base_release: Annotated[str, Field(max_length=255)]

    @property
    def path(self) -> str:
        """Where it lies in a delta."""
        return f"patches/{self.target}.patch"

    @property
    def file(self) -> Target:
        """As a file that can be carried like any other."""
        return Target(self.path, self.size, self.sha256, KIND)


class List(_Frozen):
    """All patches of one delta, of one version of one release."""

    schema_version: Literal[1] = Field(1, alias="schema")
    release: str
    version: int
    patches: tuple[Patch, ...]


def write(delta: Path, trusted: Trusted, patches: Iterable[Patch], signers: Iterable[Signer]) -> None:
    """Sign the list into ``delta``.

    Raises:
        InputError: these keys do not reach the role's threshold in the root in force.
    """
    told = List(schema=1, release=trusted.release, version=trusted.version, patches=tuple(patches))
    envelope = Envelope(told.model_dump_json(by_alias=True).encode(), TYPE, {})
    for signer in signers:
        envelope.sign(signer)
    try:
        _verify(envelope, trusted)
    except Exception as error:  # securesystemslib raises many types; the message says the rest
        raise InputError(
            f"these keys may not sign a list of patches: {error}",
            remedy=f"Give --keys with the directory that has the keys of the role {ROLE}, or leave --patch out.",
        ) from error
    metadata.write(delta, {metadata.PATCHES: (json.dumps(envelope.to_dict(), indent=1) + "\n").encode()})


def read(trusted: Trusted) -> tuple[Patch, ...]:
    """The patches of a delta; none when it has no list.

    Args:
        trusted: what ``open_bundle`` gave, with the list as it was read beside the metadata.

    Raises:
        TrustError: the list is not signed by the release's keys, or is of another release.
    """
    raw = trusted.metadata.get(metadata.PATCHES)
    if raw is None:
        return ()
    try:
        envelope = Envelope.from_dict(json.loads(raw))
        _verify(envelope, trusted)
        if envelope.payload_type != TYPE:
            raise ValueError(f"it is {printable(str(envelope.payload_type), '')}")
    except Exception as error:  # securesystemslib raises many types on malformed input; none of them may pass
        raise TrustError(f"the list of patches is not signed: {error}", where=LIST, remedy=REMEDY) from error
    try:
        told = List.model_validate_json(envelope.payload)
    except ValidationError as error:
        raise TrustError(f"not a list of patches: {error.error_count()} mistakes", where=LIST, remedy=REMEDY) from error
    if (told.release, told.version) != (trusted.release, trusted.version):
        raise TrustError(
            f"the list of patches is of {printable(told.release, '')}, version {told.version}; the delta is of "
            f"{trusted.release}, version {trusted.version}",
            where=LIST,
            remedy="Do not mix two deltas; copy this one again.",
        )
    if len({p.target for p in told.patches}) != len(told.patches):
        raise TrustError("two patches make the same file", where=LIST, remedy=REMEDY)
    known = {(t.sha256, t.size) for t in trusted.targets.values()}
    for patch in told.patches:
        if (patch.target, patch.target_size) not in known:
            raise TrustError("a patch makes what the release does not list", where=patch.path, remedy=REMEDY)
    return told.patches


def _verify(envelope: Envelope, trusted: Trusted) -> None:
    root = Metadata[Root].from_bytes(trusted.root).signed
    role = root.roles[ROLE]
    envelope.verify([root.keys[k] for k in role.keyids], role.threshold)


def extended(trusted: Trusted, patches: Iterable[Patch]) -> Trusted:
    """The release's files and the patches beside them, for whoever carries files whatever they are."""
    return replace(trusted, targets={**trusted.targets, **{p.path: p.file for p in patches}})
