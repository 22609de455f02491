"""The TUF client: what a pinned root of trust lets through.

A bundle is a TUF repository; its files are the targets. ``refresh`` runs python-tuf's client workflow (root chain,
timestamp, snapshot, targets, in the specification's order) from wherever the metadata lies and returns what is signed.
The state directory is the memory against rollback: whoever keeps it refuses everything older than what it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
import urllib3
from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from engine import inputfile, metadata, tree
from engine.durable import disk_errors
from engine.errors import ResourceError, TrustError, UpstreamError

# Anything beyond these lengths is refused unread.
CONFIG = UpdaterConfig(
    prefix_targets_with_hash=False,
    root_max_length=metadata.ROOT_LENGTH,
    timestamp_max_length=metadata.TIMESTAMP_LENGTH,
    snapshot_max_length=metadata.SNAPSHOT_LENGTH,
    targets_max_length=metadata.TARGETS_LENGTH,
)
MAX_TARGETS = 100_000
ASK = "Do not use this bundle; ask its builder."


@dataclass(frozen=True)
class Target:
    """One signed file. ``size`` in bytes; ``path`` relative to the bundle.

    A large file also has the SHA-256 of each of its pieces of ``chunk_size`` bytes, so that a piece on a medium of its
    own can be checked alone.
    """

    path: str
    size: int
    sha256: str
    kind: str = ""
    profiles: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    chunk_size: int = 0
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trusted:
    """What the metadata vouches for.

    Attributes:
        name, release: NAME and NAME-VERSION as signed; the directory's name is not trusted.
        version: TUF version of the targets metadata, which only grows.
        expires: when the targets metadata ends, ISO 8601 UTC.
        root: the verified root metadata in force, for documents beside the metadata that its keys sign.
        metadata: the files that this was read from, by name, byte for byte as they were verified. ``verify.open_bundle`` adds the
            roots before the pinned one and, unverified, the list of patches.
        versions: TUF versions of timestamp, snapshot and targets, which a thief of one key can set apart.
    """

    name: str
    release: str
    version: int
    expires: str
    root_version: int
    targets: dict[str, Target]
    root: bytes = field(default=b"", repr=False)
    metadata: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    versions: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Bytes of all targets."""
        return sum(t.size for t in self.targets.values())

    def for_profiles(self, profiles: set[str]) -> list[Target]:
        """Targets that a node with these profiles needs, in order of their paths."""
        return [t for p, t in sorted(self.targets.items()) if profiles & set(t.profiles)]


class FilesFetcher(FetcherInterface):
    """Serves metadata files that were read already, as if from a server."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
        if name not in self._files:
            # The workflow asks for the next root until there is none, and tells the two apart by this status.
            raise tuf.DownloadHTTPError(f"{metadata.DIRECTORY}/{name} is missing", 404)
        yield self._files[name]


class ReadOnce(FetcherInterface):
    """Passes each file on as ``source`` gave it the first time, so that several looks are at the same bytes.

    What ``source`` does not have, it does not have for later looks either. A file that was not read to its end (because it is longer
    than allowed) is not kept.
    """

    def __init__(self, source: FetcherInterface) -> None:
        self._source = source
        self._seen: dict[str, bytes | tuf.DownloadHTTPError] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        if (seen := self._seen.get(url)) is not None:
            if isinstance(seen, tuf.DownloadHTTPError):
                raise tuf.DownloadHTTPError(str(seen), seen.status_code)
            yield seen
            return
        pieces = []
        try:
            for piece in self._source._fetch(url):
                pieces.append(piece)
                yield piece
        except tuf.DownloadHTTPError as error:
            self._seen[url] = error
            raise
        self._seen[url] = b"".join(pieces)


class HttpFetcher(FetcherInterface):
    """Reads metadata over a pool of connections (with the node's client certificate)."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            response = self._pool.request("GET", url, preload_content=False, redirect=False)
            try:
                if response.status >= 400:
                    raise tuf.DownloadHTTPError(f"{url} answers {response.status}", response.status)
                # Not decoded: what is counted against the length limit is what came over the wire.
                yield from response.stream(1 << 16, decode_content=False)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise tuf.DownloadError(f"{url}: {error}") from error


def read_root(path: Path) -> bytes:
    """A root of trust given by hand, signed by its own keys: one that is not would make a good bundle look bad.

    Raises:
        InputError: it cannot be read, is not a regular file, or is longer than root metadata may be.
        ResourceError: it may not be read, or the device failed.
        TrustError: it is no root of trust, or is damaged.
    """
    data = inputfile.read(path, CONFIG.root_max_length, "the root of trust", "Give the root.json itself.")
    try:
        root = Metadata[Root].from_bytes(data)
    except Exception as error:  # python-tuf raises many types on malformed input
        raise TrustError(
            f"this is no root of trust: {error}", where=str(path), remedy="Give the root.json that you received."
        ) from error
    try:
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except Exception as error:  # and securesystemslib on malformed keys
        raise TrustError(
            "this root of trust is damaged: its own keys have not signed it",
            where=str(path),
            remedy="Copy the root.json that you received again, and compare it with its source.",
        ) from error
    return data


def refresh(*, fetcher: FetcherInterface, url: str, state: Path, pinned_root: bytes, where: str = "") -> Trusted:
    """Run the client workflow and return what is signed.

    Args:
        url: where ``metadata/`` is, as the fetcher understands it.
        where: the same for people; the url when empty.
        state: directory that remembers the last trusted metadata; private to this client.
        pinned_root: the root metadata this client starts from.

    Raises:
        TrustError: a signature, threshold, version, expiry, length or hash was refused.
        UpstreamError: the metadata cannot be fetched.
    """
    where = where or url
    with disk_errors(state):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        updater = Updater(str(state), f"{url}/metadata/", fetcher=fetcher, config=CONFIG, bootstrap=pinned_root)
        updater.refresh()
        # Written by the updater into this client's own directory after each was verified.
        files = {f"{role}.json": (state / f"{role}.json").read_bytes() for role in ("timestamp", "snapshot", "targets")}
        root_version = int((state / "root.json").resolve().name.split(".")[0])
        first = Metadata[Root].from_bytes(pinned_root).signed.version
        chain = {
            metadata.root_name(n): (state / "root_history" / metadata.root_name(n)).read_bytes()
            for n in range(first, root_version + 1)
        }
        signed = Metadata[Targets].from_bytes(files["targets.json"]).signed
        versions = {
            "timestamp": Metadata[Timestamp].from_bytes(files["timestamp.json"]).signed.version,
            "snapshot": Metadata[Snapshot].from_bytes(files["snapshot.json"]).signed.version,
            "targets": signed.version,
        }
    except tuf.DownloadHTTPError as error:
        raise TrustError(
            f"the metadata is not complete: {error}",
            where=where,
            remedy="The bundle is damaged or was cut; copy it again.",
        ) from error
    except tuf.DownloadLengthMismatchError as error:
        raise TrustError(
            f"the metadata is longer than it may be, as in an endless data attack: {error}",
            where=where,
            remedy="The metadata is damaged or mixed from two bundles; copy the bundle again.",
        ) from error
    except tuf.DownloadError as error:
        if isinstance(error.__cause__, TrustError):
            raise error.__cause__ from error
        raise UpstreamError(
            f"cannot read the metadata: {error}", where=where, remedy="Check that the bundle or depot can be reached."
        ) from error
    except tuf.RepositoryError as error:
        raise _refusal(error, where) from error
    except OSError as error:
        raise ResourceError(
            f"cannot keep the trust state: {error.strerror}",
            where=str(state),
            remedy="Check space and permissions there.",
        ) from error
    root = chain[metadata.root_name(root_version)]
    return replace(listing(signed, root_version, root), metadata={**chain, **files}, versions=versions)


def _refusal(error: tuf.RepositoryError, where: str) -> TrustError:
    """The operator's words for what python-tuf refused."""
    match error:
        case tuf.ExpiredMetadataError():
            return TrustError(
                f"the metadata has expired, as in a freeze attack ({error})",
                where=where,
                remedy="Ask the builder for re-signed metadata (`appliance renew`), or check this machine's clock.",
            )
        case tuf.EqualVersionNumberError() | tuf.BadVersionNumberError():
            return TrustError(
                f"the metadata is older than or mixed with what was trusted before, as in a rollback attack ({error})",
                where=where,
                remedy="Use the newest bundle. A planned downgrade needs the builder to sign the old content again.",
            )
        case tuf.UnsignedMetadataError():
            return TrustError(
                f"not signed by the keys that the pinned root trusts, as in an arbitrary software attack ({error})",
                where=where,
                remedy="Do not use this bundle. If keys were rotated after it was signed, ask the builder to renew it "
                "(`appliance renew`); if before, carry the new roots first (`appliance keys export`).",
            )
        case tuf.LengthOrHashMismatchError():
            return TrustError(
                f"a metadata file is not the one that was signed with the others, as in a mix-and-match attack ({error})",
                where=where,
                remedy="The metadata is damaged or mixed from two bundles; copy the bundle again.",
            )
        case _:
            return TrustError(
                f"the metadata was refused: {error}",
                where=where,
                remedy="Do not use this bundle; copy it again or ask its builder.",
            )


def listing(signed: Targets, root_version: int, root: bytes = b"") -> Trusted:
    """The files that targets metadata lists, each with a path that is safe to open.

    Raises:
        TrustError: a path, hash or name that is not allowed.
    """
    if len(signed.targets) > MAX_TARGETS:
        raise TrustError(f"the metadata lists {len(signed.targets)} files; at most {MAX_TARGETS} are allowed")
    targets = {}
    for path, file in signed.targets.items():
        tree.check_path(path)
        sha256 = file.hashes.get("sha256", "")
        if not _is_sha256(sha256):
            raise TrustError(
                "the metadata gives no SHA-256", where=path, remedy="Do not use this bundle; ask its builder."
            )
        custom = file.unrecognized_fields.get("custom") or {}
        profiles = custom.get("profiles", []) if isinstance(custom, dict) else None
        if not isinstance(profiles, list) or not 0 <= file.length < 1 << 63:
            raise TrustError("the metadata describes a file in an unknown way", where=path, remedy=ASK)
        targets[path] = Target(
            path, file.length, sha256, str(custom.get("kind", "")), tuple(map(str, profiles)),
            str(custom.get("licence", "")), str(custom.get("source", "")), *_chunks(path, file.length, custom),
        )  # fmt: skip
    if pairs := tree.collisions(list(targets)):
        raise TrustError(
            f"two files differ only in case: {pairs[0][0]} and {pairs[0][1]}",
            remedy="Do not use this bundle; ask its builder.",
        )
    name, release = (
        _plain_name(signed.unrecognized_fields.get(f"x-appliance-{field}")) for field in ("name", "release")
    )
    return Trusted(name, release, signed.version, signed.expires.isoformat(), root_version, targets, root)


def _chunks(path: str, size: int, custom: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Size and hashes of a file's pieces, as many as its length asks for."""
    told = custom.get("chunks")
    if told is None:
        return 0, ()
    try:
        chunk_size, hashes = int(told["size"]), tuple(map(str, told["sha256"]))
    except (KeyError, TypeError, ValueError):
        chunk_size, hashes = 0, ()
    if chunk_size <= 0 or len(hashes) != -(-size // chunk_size) or not all(_is_sha256(h) for h in hashes):
        raise TrustError(
            "the metadata's hashes of pieces do not fit the file",
            where=path,
            remedy="Do not use this bundle; ask its builder.",
        )
    return chunk_size, hashes


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _plain_name(value: object) -> str:
    """A signed name that becomes a directory's name."""
    if not isinstance(value, str) or "/" in value or value.startswith("."):
        raise TrustError("the signed name of the bundle is not a plain name", where=repr(value)[:200])
    return tree.check_path(value)
