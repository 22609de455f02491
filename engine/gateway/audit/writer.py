"""Appends to the audit log: numbers, hashes, checkpoints, segments and their retention."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from engine import durable
from engine.errors import ApplianceError, InputError
from engine.gateway.audit import chain
from engine.gateway.configuration import LedgerSettings
from engine.gateway.ledger.wal import write_whole

EXPORTS_KEPT = 100


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key of checkpoints.

    Raises:
        InputError: the file is not an Ed25519 private key in PEM.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        what = error.strerror if isinstance(error, OSError) else "is not a private key in PEM"
        raise InputError(
            f"checkpoint_key: {what}", where=str(path), remedy="`openssl genpkey -algorithm ed25519` makes one."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            "checkpoint_key: not an Ed25519 key",
            where=str(path),
            remedy="`openssl genpkey -algorithm ed25519` makes one.",
        )
    return key


class Writer:
    """The open end of the chain.

    Attributes:
        applied: number of the last ledger record whose line is in the chain.
    """

    def __init__(self, directory: Path, settings: LedgerSettings, key: Ed25519PrivateKey, site: str) -> None:
        self._directory, self._settings, self._key = directory, settings, key
        self.chain, self.n, self.hash, self.applied = "", 0, chain.NOTHING, 0
        self._since = 0  # records after the last checkpoint
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        segments = sorted(directory.glob("audit-*.jsonl"))
        if segments:
            self._resume(segments)
        else:
            self._begin(directory / f"audit-{1:012d}.jsonl")
        if not self.n:
            self.chain = secrets.token_hex(16)
            self.append([{"kind": "start", "chain": self.chain, "site": site, "schema": chain.SCHEMA}])

    def append(self, entries: Sequence[chain.Record]) -> None:
        """Write entries as records, all or none.

        Raises:
            OSError: the disk is full or fails; nothing was written.
        """
        n, prev, applied, raw = self.n, self.hash, self.applied, bytearray()
        time = stamp()
        for entry in entries:
            n += 1
            line = chain.line_of({"time": time, **entry, "n": n, "prev": prev})
            prev = chain.digest(line)
            applied = max(applied, entry.get("wal", 0))
            raw += line + b"\n"
        write_whole(self._fd, bytes(raw), self._size)
        self._size += len(raw)
        self._since += n - self.n
        self.n, self.hash, self.applied = n, prev, applied

    def due(self) -> bool:
        """Whether so many lines were written that a checkpoint is due before its time."""
        return self._since >= self._settings.checkpoint_lines

    def checkpoint(self) -> chain.Checkpoint | None:
        """Sign and export what was written since the last checkpoint, if anything; begin a new segment when this one is full.

        Raises:
            OSError, ResourceError: the disk is full or fails.
        """
        if not self._since:
            return None
        made = chain.Checkpoint(self.chain, self.n, self.hash, stamp(), "").signed(self._key)
        self.append([{"kind": "checkpoint", "chain": made.chain, "of": made.__dict__}])
        self._since = 0
        os.fdatasync(self._fd)
        durable.write(self._settings.checkpoints / f"checkpoint-{made.n:012d}.json", made.dump())
        for old in sorted(self._settings.checkpoints.glob("checkpoint-*.json"))[:-EXPORTS_KEPT]:
            old.unlink(missing_ok=True)
        if self._size >= self._settings.segment_bytes:
            self._rotate()
        return made

    def retain(self, now: float) -> None:
        """Delete segments that ended longer ago than is kept; the record comes first."""
        segments = sorted(self._directory.glob("audit-*.jsonl"))
        old = [s for s in segments[:-1] if s.stat().st_mtime < now - self._settings.retain_days * 86_400]
        if not old:
            return
        last = _last_line(old[-1])
        through = chain.parse(last)["n"]
        self.append([{"kind": "dropped", "through": through, "hash": chain.digest(last)}])
        self.checkpoint()
        for path in old:
            path.unlink()

    def flush(self) -> None:
        """Bring what was written to the disk; called from a thread."""
        os.fdatasync(self._fd)

    def _rotate(self) -> None:
        before = self._fd
        self._begin(self._directory / f"audit-{self.n + 1:012d}.jsonl")
        os.fsync(before)
        os.close(before)

    def _begin(self, path: Path) -> None:
        with durable.disk_errors(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        self._size = os.fstat(self._fd).st_size
        os.lseek(self._fd, self._size, os.SEEK_SET)

    def _resume(self, segments: list[Path]) -> None:
        """Find the end of the chain; a last line without its end is what a power failure left."""
        self._begin(segments[-1])
        raw = segments[-1].read_bytes()
        if (whole := raw.rfind(b"\n") + 1) != len(raw):
            os.ftruncate(self._fd, whole)
            os.lseek(self._fd, whole, os.SEEK_SET)
            self._size = whole
        if not whole and len(segments) > 1:
            os.close(self._fd)
            segments[-1].unlink()
            self._resume(segments[:-1])
            return
        try:
            for number, path in enumerate(reversed(segments)):
                self._recover(path.read_bytes()[: whole if number == 0 else None].splitlines(), newest=number == 0)
                if self.applied and self.chain:
                    break
        except ValueError as error:
            raise ApplianceError(
                f"the audit log cannot be continued: {error}",
                where=str(segments[-1]),
                remedy="Run `appliance-gateway audit verify`, and move the directory away as evidence.",
            ) from error

    def _recover(self, lines: Iterable[bytes], *, newest: bool) -> None:
        for line in lines:
            record = chain.parse(line)
            self.applied = max(self.applied, record.get("wal", 0))
            self.chain = record.get("chain", self.chain)
            if newest:
                self.n, self.hash = record["n"], chain.digest(line)
                self._since = 0 if record["kind"] == "checkpoint" else self._since + 1


def stamp() -> str:
    """The time of a record."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _last_line(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
