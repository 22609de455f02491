"""What the builder hashed lately, so that a rebuild reads only what is new.

A file of the cache whose inode, size and time of change are those of a week ago at most is taken for what it was. Who could
forge that gains nothing: a release is signed for the hashes of the lock, whatever lies there, and every later step (verify,
import, a node's fetch) reads all bytes. A mistake here costs a refusal, never trust. docs/decisions/0044 has the measurements.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from engine import durable, strictjson
from engine.blobs import Blobs
from installer.trust.sign import Digest

FILE = "digests.json"
MAX_BYTES = 64 << 20  # of the record; a hundred thousand files have a third
KEPT = timedelta(days=7)  # so long a disk may rot unnoticed by builds
SMALLEST = 64 << 10  # bytes; hashing less costs what looking it up does


@dataclass
class Known:
    """The record of one cache. ``reused`` is what was not read again, with its size in bytes."""

    cache: Blobs
    now: datetime
    entries: dict[str, list[object]] = field(default_factory=dict)
    reused: dict[str, int] = field(default_factory=dict)

    def find(self, path: Path, n_pieces: int, locked: str) -> Digest | None:
        """The digest of a file below a bundle that is a link into the cache; None when it must be read.

        Args:
            locked: SHA-256 that the lock has for it, empty for none. The record alone never decides what is signed.
        """
        found = path.stat(follow_symlinks=False)
        entry = self.entries.get(_key(found))
        if entry is None or entry[:2] != [found.st_size, found.st_mtime_ns] or not _unwritable(found):
            return None
        _, _, _, sha256, pieces = entry
        if sha256 != locked or not isinstance(pieces, list) or len(pieces) != n_pieces:
            return None
        self.reused[str(path)] = found.st_size
        return Digest(locked, found.st_size, tuple(map(str, pieces)))

    def keep(self, bundle: Path, digests: Mapping[str, Digest]) -> None:
        """Remember what was read now, of files that the cache shares with the bundle."""
        for path, digest in digests.items():
            if str(bundle / path) in self.reused:
                continue  # its week began when it was read
            try:
                found, cached = (bundle / path).stat(follow_symlinks=False), self.cache.path(digest.sha256).stat()
            except FileNotFoundError:
                continue
            if _key(found) == _key(cached) and found.st_size >= SMALLEST:
                self.entries[_key(found)] = [
                    found.st_size, found.st_mtime_ns, int(self.now.timestamp()), digest.sha256, list(digest.pieces),
                ]  # fmt: skip
        durable.write(self.cache.root / FILE, json.dumps(self.entries, separators=(",", ":")))


def load(cache: Blobs, now: datetime) -> Known:
    """The record as the last build left it, without what is too old; an unreadable one counts as none."""
    known = Known(cache, now)
    try:
        with (cache.root / FILE).open("rb") as file:
            data = strictjson.loads(file.read(MAX_BYTES))
        oldest = (now - KEPT).timestamp()
        known.entries = {k: e for k, e in data.items() if len(e) == 5 and oldest < e[2] <= now.timestamp()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        pass
    return known


def _key(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}"


def _unwritable(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and not found.st_mode & 0o222
