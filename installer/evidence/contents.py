"""What a bundle says of itself, read after its signatures and hashes were checked, and what changed between two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine import signers, strictjson
from engine.copying import read_target
from engine.errors import TrustError
from engine.signers import Role
from engine.trust import Trusted
from engine.verify import open_bundle
from installer.evidence import drafts, provenance
from installer.lockfile import Artifact, Lock

MANIFEST, LICENCES, SBOM = "content/manifest.json", "content/licences/index.json", "content/sbom/bundle.cdx.json"
PROVENANCE = "content/provenance/bundle.intoto.json"
OTHER_VERSION = "It was made by another version of appliance; use that one."
LIMIT = 64 << 20  # bytes of any of these; 20 000 artifacts are 12 MB


@dataclass(frozen=True)
class Contents:
    """A bundle's own account.

    Attributes:
        trusted: signed metadata; of a draft, what it lists.
        licences: its index of licences; empty where it has none.
        roles: who may sign and who did (``engine.signers``).
        builder: URI of the builder by the provenance; empty where it has none.
    """

    trusted: Trusted
    definition: dict[str, Any]
    lock: Lock
    licences: dict[str, Any]
    roles: tuple[Role, ...] = ()
    builder: str = ""

    @property
    def draft(self) -> bool:
        """Whether clients refuse it still: a role has not enough signatures."""
        return not all(r.enough for r in self.roles)

    @property
    def product(self) -> str:
        """Version of appliance that the bundle brings, which is the one that built it; empty where it brings none."""
        return next((a.version for a in self.lock.of_kind("installer") if a.name == "appliance"), "")


@dataclass(frozen=True)
class Change:
    """One artifact that was added, removed or changed. ``fields`` name what differs; sizes in bytes."""

    what: str
    kind: str
    name: str
    old: Artifact | None
    new: Artifact | None
    fields: tuple[str, ...] = ()


def read(bundle: Path, pinned_root: bytes, *, draft: bool = False) -> Contents:
    """Open a bundle and read its account.

    Args:
        draft: also take a release that not enough have signed yet; what it says is then nobody's but its builder's.

    Raises:
        TrustError: the metadata or one of these files was refused.
    """
    waiting = draft and drafts.is_draft(bundle)
    trusted = drafts.listed(bundle, pinned_root) if waiting else open_bundle(bundle, pinned_root)
    manifest = _json(bundle, trusted, MANIFEST)
    try:
        lock = Lock.model_validate(manifest.get("lock"))
    except ValidationError as error:
        raise TrustError(
            f"the manifest's lock is not ours: {error.error_count()} mistakes", where=MANIFEST,
            remedy=OTHER_VERSION,
        ) from error  # fmt: skip
    licences = _json(bundle, trusted, LICENCES) if LICENCES in trusted.targets else {}
    told = _json(bundle, trusted, PROVENANCE) if PROVENANCE in trusted.targets else {}
    definition = dict(manifest.get("definition") or {})
    return Contents(trusted, definition, lock, licences, signers.read(trusted), provenance.builder_of(told))


def sbom(bundle: Path, pinned_root: bytes) -> bytes:
    """The bundle's bill of materials, as signed.

    Raises:
        TrustError: it has none, or it was refused.
    """
    trusted = open_bundle(bundle, pinned_root)
    if SBOM not in trusted.targets:
        raise TrustError("the bundle has no bill of materials", where=SBOM, remedy="Build it again with this version.")
    return read_target(bundle, trusted.targets[SBOM], LIMIT)


def require_builder(bundle: Path, trusted: Trusted, expected: str) -> None:
    """The provenance names ``expected`` as its builder, and tells of this bundle's artifacts and no others.

    Raises:
        TrustError: it names another, does not fit the signed lock or files, or is not there.
    """
    told = _json(bundle, trusted, PROVENANCE)
    try:
        lock = Lock.model_validate(_json(bundle, trusted, MANIFEST).get("lock"))
    except ValidationError as error:
        raise TrustError("the provenance is not one of ours", where=PROVENANCE, remedy=OTHER_VERSION) from error
    if not (builder := provenance.builder_of(told)):
        raise TrustError("the provenance is not one of ours", where=PROVENANCE, remedy=OTHER_VERSION)
    if builder != expected:
        raise TrustError(
            f"the provenance names the builder {builder[:200]!a}, not {expected!a}",
            where=PROVENANCE,
            remedy="Do not use this bundle unless its builder explains the other id; see `build bundle --builder-id`.",
        )
    differing = provenance.differences(told, provenance.statement(lock, builder=expected))
    signed = {p: t.sha256 for p, t in trusted.targets.items()}
    if any(signed.get(f"content/{a.path}") != a.sha256 for a in lock.artifacts):
        differing = [*differing, "the signed files"]
    if differing:
        raise TrustError(
            f"the provenance does not tell of what is in the bundle: {', '.join(differing)} differ",
            where=PROVENANCE,
            remedy="Do not use this bundle; ask its builder.",
        )


def _json(bundle: Path, trusted: Trusted, path: str) -> dict[str, Any]:
    if path not in trusted.targets:
        raise TrustError("the bundle does not have it", where=path, remedy="Build the bundle again with this version.")
    try:
        data = strictjson.loads(read_target(bundle, trusted.targets[path], LIMIT))
    except ValueError as error:
        raise TrustError(f"it is not JSON of ours: {error}", where=path, remedy=OTHER_VERSION) from error
    if not isinstance(data, dict):
        raise TrustError("it is not a table", where=path, remedy=OTHER_VERSION)
    return data


def changes(old: Lock, new: Lock) -> list[Change]:
    """What differs between two locks, by kind and name. Pure.

    A wheel or package is the same one by its group and name, whatever its version; files of models and images by their path.
    """
    before, after = _by_name(old), _by_name(new)
    found = []
    for key in sorted({*before, *after}):
        one, two = before.get(key), after.get(key)
        if one and two:
            fields = tuple(
                f for f in ("version", "sha256", "size", "licence", "source") if getattr(one, f) != getattr(two, f)
            )
            if fields:
                found.append(Change("changed", key[0], key[2], one, two, fields))
        else:
            found.append(Change("added" if two else "removed", key[0], key[2], one, two))
    return found


def _by_name(lock: Lock) -> dict[tuple[str, str, str], Artifact]:
    found: dict[tuple[str, str, str], Artifact] = {}
    for a in lock.artifacts:
        named = a.kind in ("wheels", "installer", "debs") and a.group != "evidence"
        key = (a.kind, a.group, a.name if named else a.path)
        if key in found:  # two versions of one package, which a closure may hold
            key = (a.kind, a.group, a.path)
        found[key] = a
    return found
