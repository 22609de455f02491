"""Turn a directory of content into a signed TUF repository, in one step or in several on several machines.

A release is drafted (targets.json with its first signatures), signed by whoever else must, and finished (snapshot and
timestamp) by the builder once enough have. Until then no client accepts it, for it has no timestamp.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from engine import inputfile, metadata
from engine.blobs import hash_chunks, hash_file
from engine.errors import InputError, TrustError
from engine.metadata import Files
from installer.trust import roots
from installer.trust.keys import PRETTY, KeyStore
from installer.trust.roots import Signatures

CHUNK_SIZE = 256 << 20  # bytes; the smallest piece that `split` cuts, and one hash of the metadata
NAME, RELEASE = "x-appliance-name", "x-appliance-release"


@dataclass(frozen=True)
class Label:
    """What the metadata says about a file beyond its hash."""

    kind: str
    profiles: tuple[str, ...]
    licence: str = ""
    source: str = ""


@dataclass(frozen=True)
class Signed:
    """Where a release stands. ``version`` is its TUF version; it can be verified once ``finished``."""

    version: int
    signatures: Signatures
    finished: bool


@dataclass(frozen=True)
class Digest:
    """What a file is: SHA-256 in hexadecimal, length in bytes, and SHA-256 of each piece of a long one."""

    sha256: str
    length: int
    pieces: tuple[str, ...] = ()


LabelOf = Callable[[str], Label]


def digests_of(
    bundle: Path,
    paths: Iterable[str],
    chunk_size: int = CHUNK_SIZE,
    known: Callable[[Path, int], Digest | None] = lambda _path, _pieces: None,
) -> dict[str, Digest]:
    """Hash files of a bundle, in parallel; by path, sorted.

    Args:
        chunk_size: files longer than this, in bytes, also get the hash of each piece of this length.
        known: says the digest of a file that need not be read; it gets the number of pieces that are wanted.
    """

    def one(path: str) -> tuple[str, Digest]:
        size = (bundle / path).stat(follow_symlinks=False).st_size
        expected = -(-size // chunk_size) if size > chunk_size else 0
        if digest := known(bundle / path, expected):
            return path, digest
        if expected:
            return path, Digest(*hash_chunks(bundle / path, chunk_size))
        return path, Digest(*hash_file(bundle / path))

    with ThreadPoolExecutor(os.cpu_count() or 2) as workers:
        return dict(workers.map(one, sorted(paths)))


def targets_of(digests: Mapping[str, Digest], label: LabelOf, chunk_size: int = CHUNK_SIZE) -> dict[str, TargetFile]:
    """TUF targets for files of these digests."""

    def one(path: str, digest: Digest) -> TargetFile:
        about = label(path)
        custom = {
            "kind": about.kind,
            "profiles": list(about.profiles),
            "licence": about.licence,
            "source": about.source,
            "chunks": {"size": chunk_size, "sha256": list(digest.pieces)} if digest.pieces else None,
        }
        more = {"custom": {k: v for k, v in custom.items() if v}}
        return TargetFile(digest.length, {"sha256": digest.sha256}, path, more)

    return {path: one(path, digest) for path, digest in digests.items()}


def sign(
    bundle: Path,
    targets: dict[str, TargetFile],
    *,
    name: str,
    release: str,
    keys: KeyStore,
    passphrase: str,
    days: int,
    now: datetime,
    after: int = 0,
) -> Signed:
    """Write ``bundle/metadata`` with the signatures that ``keys`` can give.

    The version is the signing time in seconds: it grows without a counter that a builder could lose, two builders
    with the same keys cannot give out the same number for different content unless they sign in the same second,
    and a machine whose clock is behind it knows that its clock is wrong.

    Args:
        days: until the metadata expires.
        after: a version that the new one must be greater than.
    """
    version = max(int(now.timestamp()), after + 1)
    expires = (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
    about = {NAME: name, RELEASE: release}
    draft = Metadata(Targets(version=version, expires=expires, targets=targets, unrecognized_fields=about))
    metadata.write(bundle, {metadata.root_name(n): root for n, root in keys.root_chain().items()})
    return _advance(bundle, draft, keys, passphrase, keys.signers("targets", passphrase))


def add_signatures(
    bundle: Path,
    draft: Metadata[Targets],
    keys: KeyStore,
    passphrase: str,
    signers: Sequence[Signer],
    others: Iterable[Path] = (),
) -> Signed:
    """Add signatures to a drafted release, and finish it when that is enough and ``keys`` can.

    What is signed and written is ``draft`` as it is in memory. The bundle's own targets.json is not read again: it may be another one
    by now than the one that was checked and shown.

    Args:
        draft: the list of files that the signers have checked (``draft_of``).
        signers: who signs now.
        others: targets.json of copies that others have signed; their signatures are taken over.

    Raises:
        InputError: a copy is not of this release, or somebody signs whom the root does not allow.
    """
    for path in others:
        copy = read_copy(path)
        if copy.signed_bytes != draft.signed_bytes:
            raise InputError(
                "this is not a copy of the same release",
                where=str(path),
                remedy="Ask for the targets.json of this bundle.",
            )
        draft.signatures.update(copy.signatures)
    allowed = keys.root().roles["targets"].keyids
    for signer in signers:
        if signer.public_key.keyid not in allowed:
            raise InputError(
                f"the key {signer.public_key.keyid[:16]} may not sign releases",
                where=str(keys.root_path),
                remedy="`appliance keys rotate targets --key` adds it to the root.",
            )
    return _advance(bundle, draft, keys, passphrase, signers)


def renew(bundle: Path, out: Path, *, keys: KeyStore, passphrase: str, days: int, now: datetime) -> Signed:
    """Sign the metadata of ``bundle`` again into ``out/metadata``: same content, new version, new expiry, newest root chain.

    Raises:
        TrustError: the present metadata was not signed by these keys.
    """
    old = draft_of(metadata.read(bundle))
    _require_ours(bundle, old, keys)
    about = old.signed.unrecognized_fields
    return sign(
        out, old.signed.targets, name=about[NAME], release=about[RELEASE], keys=keys, passphrase=passphrase, days=days, now=now,
        after=old.signed.version,
    )  # fmt: skip


def _require_ours(bundle: Path, old: Metadata[Targets], keys: KeyStore) -> None:
    """Signed by any root of our own chain: a key may have been rotated since, which is a reason to renew."""
    for data in keys.root_chain().values():
        root = Metadata.from_bytes(data).signed
        if roots.signatures(root, "targets", old.signed_bytes, old.signatures).enough:
            return
    raise TrustError(
        "this bundle was not signed with these keys",
        where=str(bundle),
        remedy="Name the directory of the keys it was built with, with --keys.",
    )


def draft_of(files: Files) -> Metadata[Targets]:
    """The targets.json of a release that may lack signatures. Used on machines that sign, never to use content.

    Raises:
        InputError: it is missing or malformed.
    """
    data = files.content.get("targets.json")
    if data is None:
        raise InputError(
            "there is no list of files (metadata/targets.json)", where=files.where, remedy="Name a bundle's directory."
        )
    return _parsed(data, f"{files.where}/{metadata.DIRECTORY}/targets.json")


def read_copy(path: Path) -> Metadata[Targets]:
    """A targets.json that another signer sent back.

    Raises:
        InputError: it is missing, malformed or too long.
    """
    remedy = "Name the targets.json that the signer sent."
    data = inputfile.read(path, metadata.TARGETS_LENGTH, "the signer's list of files", remedy)
    return _parsed(data, str(path))


def _parsed(data: bytes, where: str) -> Metadata[Targets]:
    try:
        return Metadata[Targets].from_bytes(data)
    except Exception as error:  # python-tuf raises many types on malformed input
        raise InputError(
            f"not the metadata of a release: {error}", where=where, remedy="Copy the bundle again."
        ) from error


def _advance(
    bundle: Path, draft: Metadata[Targets], keys: KeyStore, passphrase: str, signers: Sequence[Signer]
) -> Signed:
    for signer in signers:
        draft.sign(signer, append=True)
    root = keys.root()
    state = roots.signatures(root, "targets", draft.signed_bytes, draft.signatures)
    draft.signatures = {k: s for k, s in draft.signatures.items() if k in state.have}
    raw = draft.to_bytes(PRETTY)
    online = {role: keys.signers(role, passphrase) for role in ("snapshot", "timestamp")} if state.enough else {}
    finish = state.enough and all(len(s) >= root.roles[r].threshold for r, s in online.items())
    metadata.write(bundle, {"targets.json": raw, **(_finish(draft.signed, raw, online) if finish else {})})
    return Signed(draft.signed.version, state, finish)


def _finish(targets: Targets, raw_targets: bytes, online: dict[str, list[Signer]]) -> dict[str, bytes]:
    """Snapshot and timestamp, by file name."""
    version, expires = targets.version, targets.expires
    snapshot = Metadata(Snapshot(version=version, expires=expires, meta={"targets.json": _meta(version, raw_targets)}))
    for signer in online["snapshot"]:
        snapshot.sign(signer, append=True)
    raw_snapshot = snapshot.to_bytes(PRETTY)
    timestamp = Metadata(Timestamp(version=version, expires=expires, snapshot_meta=_meta(version, raw_snapshot)))
    for signer in online["timestamp"]:
        timestamp.sign(signer, append=True)
    return {"snapshot.json": raw_snapshot, "timestamp.json": timestamp.to_bytes(PRETTY)}


def content_digest(hashes: dict[str, str]) -> str:
    """One number for all content: SHA-256 over ``sha256  path`` lines of content/, sorted, as `sha256sum` prints them."""
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(hashes.items()) if path.startswith("content/"))
    return hashlib.sha256(lines.encode()).hexdigest()


def _meta(version: int, raw: bytes) -> MetaFile:
    return MetaFile.from_data(version, raw, ["sha256"])
