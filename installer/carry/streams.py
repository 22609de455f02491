"""A volume as one stream of bytes: written in files of bounded length, and taken apart into its items again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine import durable
from engine.errors import TrustError

BLOCK = 1 << 20  # bytes coded at a time; memory is one block for every volume
FILE = 256 << 20  # bytes of each file of parity, so that FAT32 media can carry it


@dataclass(frozen=True)
class Entry:
    """One item of a stream: where it lies in its volume, and its signed size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


class Writer:
    """A stream in files of at most ``FILE`` bytes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory, self._done, self._digest = directory, 0, hashlib.sha256()
        self._file: IO[bytes] | None = None

    def write(self, block: bytes) -> None:
        if self._done % FILE == 0:
            self._close_file()
            self._file = (self._directory / f"{self._done // FILE:05}").open("xb")
        assert self._file is not None  # noqa: S101  opened above at the first block
        self._file.write(block)
        self._digest.update(block)
        self._done += len(block)

    def _close_file(self) -> None:
        if self._file is not None:
            durable.sync_file(self._file)
            self._file.close()

    def close(self) -> str:
        """SHA-256 of all that was written."""
        self._close_file()
        return self._digest.hexdigest()


class Unpacker:
    """A stream back into its items, each compared with its signed hash; one block in memory."""

    def __init__(self, staging: Path, entries: Sequence[Entry]) -> None:
        shutil.rmtree(staging, ignore_errors=True)
        self._staging, self._waiting = staging, list(entries)
        self._file: IO[bytes] | None = None
        self._left, self._digest = 0, hashlib.sha256()

    def write(self, block: bytes) -> None:
        rest = memoryview(block)
        while self._waiting and (rest or self._waiting[0].size == 0):
            if self._file is None:
                path = self._staging / self._waiting[0].path
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file, self._left, self._digest = path.open("xb"), self._waiting[0].size, hashlib.sha256()
            part = rest[: self._left]
            self._file.write(part)
            self._digest.update(part)
            self._left -= len(part)
            rest = rest[len(part) :]
            if self._left == 0:
                self._end(self._file, self._waiting.pop(0))
                self._file = None

    def _end(self, file: IO[bytes], entry: Entry) -> None:
        durable.sync_file(file)
        file.close()
        if self._digest.hexdigest() != entry.sha256:
            raise TrustError(
                "what was recovered is not as signed",
                where=entry.path,
                remedy="A parity volume is damaged; leave it out.",
            )

    @property
    def complete(self) -> bool:
        return not self._waiting
