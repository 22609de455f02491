"""A model in a directory of this machine."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from engine.blobs import hash_stream
from engine.errors import InputError
from engine.tree import Entry, open_beneath, walk


class Folder:
    """A directory as the intake and the lock see it. The directory itself may be a link; nothing below it may.

    Raises:
        InputError: there is no such directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.where = str(self.directory)
        self._pins: dict[str, tuple[str, int, str]] = {}
        if not self.directory.is_dir():
            raise InputError(
                "there is no such model directory",
                where=self.where,
                remedy="Correct the path; in a definition it is relative to the definition.",
            )

    @cached_property
    def entries(self) -> list[Entry]:
        return sorted(walk(self.directory), key=lambda e: e.path)

    def read(self, path: str, n: int) -> bytes:
        """The first ``n`` bytes of a file."""
        with open_beneath(self.directory, path) as file:
            data = bytearray()
            while len(data) < n and (chunk := file.read(n - len(data))):  # unbuffered: a read may give less
                data += chunk
            return bytes(data)

    def pin(self, path: str) -> tuple[str, int, str]:
        """SHA-256, size in bytes and address of a file."""
        if path not in self._pins:
            with open_beneath(self.directory, path) as file:
                self._pins[path] = (*hash_stream(file), (self.directory / path).as_uri())
        return self._pins[path]

    def digest(self, paths: list[str]) -> str:
        """A short name for the content of these files, in place of a version."""
        lines = "".join(f"{self.pin(p)[0]}  {p}\n" for p in sorted(paths))
        return hashlib.sha256(lines.encode()).hexdigest()[:16]
