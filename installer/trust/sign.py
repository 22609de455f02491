"""Turn a directory of content into a signed TUF repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from engine import durable
from engine.blobs import hash_file
from installer.trust.keys import KeyStore

PRETTY = JSONSerializer(compact=False)


@dataclass(frozen=True)
class Label:
    """What the metadata says about a file beyond its hash."""

    kind: str
    profiles: tuple[str, ...]
    licence: str = ""
    source: str = ""


LabelOf = Callable[[str], Label]


def targets_of(bundle: Path, paths: Iterable[str], label: LabelOf) -> dict[str, TargetFile]:
    """Hash files of a bundle, in parallel, into TUF targets."""

    def one(path: str) -> tuple[str, TargetFile]:
        sha256, length = hash_file(bundle / path)
        about = label(path)
        custom = {
            "kind": about.kind,
            "profiles": list(about.profiles),
            "licence": about.licence,
            "source": about.source,
        }
        return path, TargetFile(length, {"sha256": sha256}, path, {"custom": {k: v for k, v in custom.items() if v}})

    with ThreadPoolExecutor(os.cpu_count() or 2) as workers:
        return dict(workers.map(one, sorted(paths)))


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
) -> int:
    """Write ``bundle/metadata``; returns the version.

    The version is the signing time in seconds: it grows without a counter that a builder could lose, and two
    builders with the same keys cannot give out the same number for different content unless they sign in the same second.

    Args:
        days: until the metadata expires.
    """
    version = int(now.timestamp())
    expires = (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
    signers = {role: keys.signer(role, passphrase) for role in ("targets", "snapshot", "timestamp")}
    metadata = bundle / "metadata"

    signed_targets = Metadata(
        Targets(
            version=version,
            expires=expires,
            targets=targets,
            unrecognized_fields={"x-appliance-name": name, "x-appliance-release": release},
        )
    )
    signed_targets.sign(signers["targets"])
    raw_targets = signed_targets.to_bytes(PRETTY)

    snapshot = Metadata(Snapshot(version=version, expires=expires, meta={"targets.json": _meta(version, raw_targets)}))
    snapshot.sign(signers["snapshot"])
    raw_snapshot = snapshot.to_bytes(PRETTY)

    timestamp = Metadata(Timestamp(version=version, expires=expires, snapshot_meta=_meta(version, raw_snapshot)))
    timestamp.sign(signers["timestamp"])

    for number, root in keys.root_chain().items():
        durable.write(metadata / f"{number}.root.json", root)
    durable.write(metadata / "targets.json", raw_targets)
    durable.write(metadata / "snapshot.json", raw_snapshot)
    durable.write(metadata / "timestamp.json", timestamp.to_bytes(PRETTY))
    return version


def _meta(version: int, raw: bytes) -> MetaFile:
    return MetaFile.from_data(version, raw, ["sha256"])


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
