"""What a place can hold, found by asking its file system before anything is written to it.

Names of file systems say little (``fuseblk`` is NTFS, exFAT or another) and options of a mount change the rest, so everything
that can be tried is tried, with empty files in a hidden directory that is gone afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.errors import ResourceError
from engine.printable import printable

FAT_LONGEST = (4 << 30) - 1  # bytes of a file; FAT32 keeps the length in 32 bits
RESERVED = ':*?"<>|'  # what exFAT and FAT do not allow in names; control characters and backslashes no bundle has
ENDINGS = ". "  # what some drivers take off the end of a name without a word
KEEP_SIZE = 1  # flag of fallocate(2)
SHOWN = 5  # files that an error names

Files = Mapping[str, int]  # length in bytes by path


@dataclass(frozen=True)
class Medium:
    """One file system, as it answered.

    Attributes:
        place: a directory on it that exists.
        kind: its type as the kernel calls it; for messages.
        links, symlinks, modes: whether it has hard links, symbolic links, and keeps permissions.
        refused: characters that names cannot have, of ``RESERVED`` and ``ENDINGS`` (the latter: at the end of a name).
        longest_name: bytes of one name.
        longest: bytes of a file; None when no limit was found.
        sure: whether there certainly is no limit below ``longest``; some drivers do not answer that.
        block: bytes that the smallest file occupies.
        free: bytes that may be written.
    """

    place: Path
    kind: str
    links: bool
    symlinks: bool
    modes: bool
    refused: str
    longest_name: int
    longest: int | None
    sure: bool
    block: int
    free: int

    @property
    def cut_above(self) -> int | None:
        """Bytes above which a file is better carried in pieces; None when every length is fine."""
        return self.longest if self.sure or self.longest is not None else FAT_LONGEST

    def occupied(self, files: Files) -> int:
        """Bytes that these files take on it, with their directories."""
        directories = {path.rpartition("/")[0] for path in files}
        return sum(-(-size // self.block) * self.block for size in files.values()) + len(directories) * self.block

    def require(self, files: Files, *, remedy: str) -> None:
        """Refuse before the first byte what this file system cannot hold, however much room it has.

        Args:
            remedy: one sentence of what to do about files that are too long.

        Raises:
            ResourceError: names the files, the longest first, and their sizes.
        """
        self.require_lengths(files, remedy=remedy)
        misnamed = sorted(p for p in files if not self._takes(p))
        if misnamed:
            raise ResourceError(
                f"{self.kind} does not take these names there: {_some([printable(p, keep='') for p in misnamed])}",
                where=str(self.place),
                remedy="Use a medium with ext4 or XFS, or rename the files in the definition.",
            )

    def require_lengths(self, files: Files, *, remedy: str) -> None:
        """The half of ``require`` that looks at lengths, for places where files have other names.

        Raises:
            ResourceError: as ``require``.
        """
        long = sorted(((n, p) for p, n in files.items() if self.longest is not None and n > self.longest), reverse=True)
        if long:
            raise ResourceError(
                f"{self.kind} takes no file longer than {self.longest:,} bytes there: "
                + _some([f"{printable(p, keep='')} ({n:,} bytes)" for n, p in long]),
                where=str(self.place),
                remedy=remedy,
            )

    def _takes(self, path: str) -> bool:
        for part in path.split("/"):
            if any(c in part for c in self.refused if c not in ENDINGS) or part[-1:] in (self.refused or "/"):
                return False
            if len(os.fsencode(part)) > self.longest_name:
                return False
        return True

    def require_room(self, need: int, *, remedy: str) -> None:
        """Refuse before the first byte when ``need`` bytes are not free.

        Raises:
            ResourceError: with the number of bytes that are missing.
        """
        if self.free < need:
            raise ResourceError(f"{need - self.free:,} bytes too few are free", where=str(self.place), remedy=remedy)


def ask(place: Path) -> Medium:
    """Ask the file system of ``place``, or of the nearest directory above it that exists.

    Raises:
        ResourceError: nothing can be written there.
    """
    here = place
    while not here.is_dir():
        here = here.parent
    with durable.disk_errors(here):
        try:
            scratch = Path(tempfile.mkdtemp(prefix=".appliance-", dir=here))
        except FileNotFoundError as error:  # directories that no file can be made in, such as those of /proc
            raise ResourceError("no file can be made there", where=str(here), remedy="Choose another place.") from error
        try:
            state = os.statvfs(scratch)
            kind = _kind(scratch)
            longest, sure = _longest(scratch, kind)
            return Medium(
                place=here, kind=kind, links=_links(scratch), symlinks=_symlinks(scratch), modes=_modes(scratch),
                refused=_refused(scratch), longest_name=state.f_namemax, longest=longest, sure=sure,
                block=max(state.f_frsize, 1), free=state.f_bavail * state.f_frsize,
            )  # fmt: skip
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def leftovers(*directories: Path) -> int:
    """Bytes that come free when these directories go; what has a second name elsewhere stays."""
    total = 0
    for directory in directories:
        for here, _, names in os.walk(directory):
            block = max(os.statvfs(here).f_frsize, 1)
            states = [os.lstat(os.path.join(here, name)) for name in names]  # noqa: PTH118  many
            total += sum(-(-s.st_size // block) * block for s in states if s.st_nlink == 1)
    return total


def _some(texts: list[str]) -> str:
    more = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _kind(directory: Path) -> str:
    """Type of the mount that a directory is on: the one with the longest name that begins its path, the last of equals."""
    here, best, kind = f"{directory.resolve()}/", "", "the file system"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return kind
    for line in lines:
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda c: chr(int(c[1], 8)), left.split(" ")[4]).rstrip("/") + "/"
        if here.startswith(point) and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind


def _longest(directory: Path, kind: str) -> tuple[int | None, bool]:
    """The longest file in bytes and whether that is certain.

    Asked with fallocate(2), which reserves one block far out and writes nothing. Lengthening a file instead would write
    4 GiB of zeros on exFAT. The limit of this process (``ulimit -f``) counts as well.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    found = None if limit == resource.RLIM_INFINITY else limit
    if "fat" in kind and "exfat" not in kind:
        return min(FAT_LONGEST, found or FAT_LONGEST), True
    with (directory / "long").open("wb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        done = libc.fallocate(file.fileno(), KEEP_SIZE, FAT_LONGEST + 1, 1)
        number = ctypes.get_errno() if done else 0
    if number == errno.EFBIG:
        return min(FAT_LONGEST, found or FAT_LONGEST), True
    return found, number in (0, errno.ENOSPC, errno.EDQUOT)


def _links(directory: Path) -> bool:
    (directory / "one").touch()
    try:
        os.link(directory / "one", directory / "two")
    except OSError:
        return False
    return True


def _symlinks(directory: Path) -> bool:
    try:
        (directory / "link").symlink_to("one")
    except OSError:
        return False
    return True


def _modes(directory: Path) -> bool:
    path, kept = directory / "mode", []
    path.touch()
    for mode in (0o640, 0o755):
        try:
            path.chmod(mode)
        except OSError:
            return False
        kept.append(path.stat().st_mode & 0o777 == mode)
    return all(kept)


def _refused(directory: Path) -> str:
    """Characters of ``RESERVED`` that no name can have, and of ``ENDINGS`` that no name can end with."""
    names = {c: f"n{c}n" for c in RESERVED} | {c: f"n{c}" for c in ENDINGS}
    for name in names.values():
        try:
            (directory / name).touch()
        except OSError:
            continue
    there = {p.name for p in directory.iterdir()}
    return "".join(c for c, name in names.items() if name not in there)
