"""The write-ahead log: one line a change, written before anybody is told, and a state that the lines continue.

A line is its CRC-32 in hex, a space, JSON and a line end. A write survives the end of the process at once; it survives a power
failure after the next flush (every ``FLUSH_S`` seconds). A part of a line at the end is what a power failure left and is cut off;
a broken line before others is damage, and the ledger does not start on it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from engine import durable
from engine.errors import ApplianceError, InputError

SCHEMA = 1
FLUSH_S = 0.1
Record = dict[str, Any]


class DamagedError(ApplianceError):
    """The log cannot be read as it was written."""


class Log:
    """The state file and the log that follows it, in one directory.

    Attributes:
        dirty: something was written since the last flush.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sequence = 0  # of the last record
        self.size = 0
        self._fd = -1
        self.dirty = False

    def open(self) -> tuple[dict[str, Any] | None, list[Record]]:
        """The last state and the records after it. The log is then open for more.

        Raises:
            DamagedError: a record before the last is broken, or records are missing.
            InputError: a newer release wrote the state.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = self._state()
        self.sequence = int(state["sequence"]) if state else 0
        path = self._path(self.sequence)
        records: list[Record] = []
        good = 0
        if path.exists():
            raw = path.read_bytes()
            for record, end in _lines(path, raw):
                records.append(record)
                good = end
        self._attach(path, good)
        self.sequence += len(records)
        for old in self.directory.glob("wal-*.log"):
            if old != path:
                old.unlink()  # a crash between the new state and this left it; the state holds what it says
        return (state["state"] if state else None), records

    def append(self, records: Sequence[Record]) -> None:
        """Write records, all or none.

        Raises:
            OSError: the disk is full or fails; nothing was written.
        """
        raw = b"".join(_line(r) for r in records)
        write_whole(self._fd, raw, self.size)
        self.size += len(raw)
        self.sequence += len(records)
        self.dirty = True

    def flush(self) -> None:
        """Bring what was written to the disk; called from a thread."""
        if self.dirty:
            self.dirty = False
            os.fdatasync(self._fd)

    def compact(self, state: dict[str, Any]) -> None:
        """Begin a new log after ``state``, which holds everything that was recorded.

        Raises:
            ResourceError: the disk is full; the old log goes on.
        """
        body = {"schema": SCHEMA, "sequence": self.sequence, "state": state}
        raw = orjson.dumps(body)
        old = self._fd
        new = self._path(self.sequence)
        with durable.disk_errors(new):
            new.touch(mode=0o600)
        durable.write(self.directory / "state.json", b"%08x " % zlib.crc32(raw) + raw, mode=0o600)
        self._attach(new, 0)
        if old >= 0:
            os.close(old)
        for path in self.directory.glob("wal-*.log"):
            if path != new:
                path.unlink()

    def close(self) -> None:
        self.flush()
        os.close(self._fd)

    def _state(self) -> dict[str, Any] | None:
        path = self.directory / "state.json"
        if not path.exists():
            return None
        raw = path.read_bytes()
        if len(raw) < 9 or raw[:8] != b"%08x" % zlib.crc32(raw[9:]):
            raise DamagedError(
                "the ledger's state is damaged", where=str(path), remedy="Restore the directory from its backup."
            )
        found: dict[str, Any] = orjson.loads(raw[9:])
        if found["schema"] > SCHEMA:
            raise InputError(
                f"a newer release wrote it (schema {found['schema']}, this one knows {SCHEMA})",
                where=str(path),
                remedy="Start the newer release again.",
            )
        return found

    def _path(self, sequence: int) -> Path:
        return self.directory / f"wal-{sequence:016d}.log"

    def _attach(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
        self.size = size


def write_whole(fd: int, raw: bytes, size: int) -> None:
    """Append to a file of ``size`` bytes; after a failure it has that size again.

    Raises:
        OSError: the disk is full or fails.
    """
    written = 0
    try:
        while written < len(raw):
            written += os.write(fd, raw[written:])
    except OSError:
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)
        raise


def _line(record: Record) -> bytes:
    raw = orjson.dumps(record)
    return b"%08x %s\n" % (zlib.crc32(raw), raw)


def _lines(path: Path, raw: bytes) -> Iterator[tuple[Record, int]]:
    """Records with the offset behind each; the last may be cut off."""
    at, number = 0, 0
    while at < len(raw):
        number += 1
        end = raw.find(b"\n", at)
        line = raw[at : end if end >= 0 else len(raw)]
        whole = end >= 0 and line[:8] == b"%08x" % zlib.crc32(line[9:])
        if not whole:
            if end >= 0 and end + 1 < len(raw):
                raise DamagedError(
                    "the ledger's log is damaged",
                    where=f"{path}:{number}",
                    remedy="Restore the directory from its backup.",
                )
            return
        at = end + 1
        yield orjson.loads(line[9:]), at
