"""The one reader and writer of the files below a bundle's metadata/.

Each file is opened once, without following a link, and read no further than metadata of its kind may be long. Whoever verifies, signs,
copies or shows metadata works on these bytes: a medium may answer differently the second time. No other module opens a file there;
tests/unit/test_metadata_reader.py holds that.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import durable, tree
from engine.errors import InputError, TrustError
from engine.report import printable

DIRECTORY = "metadata"
PATCHES = "patches.json"
# Bytes. 20 000 targets with their custom fields are about 8 MB; a root with 16 keys for each role is about 20 kB.
ROOT_LENGTH, TIMESTAMP_LENGTH, SNAPSHOT_LENGTH, TARGETS_LENGTH, PATCHES_LENGTH = (
    512_000,
    16_384,
    1 << 20,
    32 << 20,
    16 << 20,
)
LENGTHS = {
    "timestamp.json": TIMESTAMP_LENGTH,
    "snapshot.json": SNAPSHOT_LENGTH,
    "targets.json": TARGETS_LENGTH,
    PATCHES: PATCHES_LENGTH,
}
ROOTS_LENGTH = 64 << 20  # bytes of all roots of a chain together
MAX_FILES = 1024  # names in the directory
ROOT = re.compile(r"([1-9][0-9]{0,5})\.root\.json")
REMEDY = "Do not use this bundle; copy it again or ask its builder."


@dataclass(frozen=True)
class Stranger:
    """What lies in metadata/ and is not metadata. ``kind`` is file, directory, link or special; it was not opened."""

    name: str
    kind: str


@dataclass(frozen=True)
class Files:
    """The files of one metadata directory, by name, as they were read; nothing is verified yet.

    Attributes:
        where: the bundle, for messages.
        strangers: what else lies there.
    """

    where: str
    content: Mapping[str, bytes]
    strangers: tuple[Stranger, ...] = ()

    @property
    def roots(self) -> dict[int, bytes]:
        """The roots by the version in their names, in order."""
        found = {int(m[1]): data for name, data in self.content.items() if (m := ROOT.fullmatch(name))}
        return dict(sorted(found.items()))


def root_name(version: int) -> str:
    """The name of the file that holds root ``version``."""
    return f"{version}.root.json"


def present(bundle: Path) -> bool:
    """Whether ``bundle`` has a metadata directory of its own. Only looks."""
    path = bundle / DIRECTORY
    return path.is_dir() and not path.is_symlink()


def has(bundle: Path, name: str) -> bool:
    """Whether a plain file ``name`` lies in the metadata directory. Only looks."""
    path = bundle / DIRECTORY / name
    return path.is_file() and not path.is_symlink()


def read(bundle: Path) -> Files:
    """Read every file of ``bundle``'s metadata directory once.

    Raises:
        InputError: there is no such bundle, or it has no metadata directory.
        TrustError: a name that metadata has belongs to a link or a device, a file is too long, or there are too many.
    """
    if not bundle.exists():
        raise InputError("there is no such bundle", where=str(bundle), remedy="Correct the path.")
    if not present(bundle):
        raise InputError(
            "not a bundle: there is no metadata directory",
            where=str(bundle),
            remedy="Give the directory NAME-VERSION that `appliance build bundle` made.",
        )
    content: dict[str, bytes] = {}
    strangers = []
    left = ROOTS_LENGTH
    for name, kind in _names(bundle):
        is_root = ROOT.fullmatch(name) is not None
        if name not in LENGTHS and not is_root:
            strangers.append(Stranger(name, kind))
            continue
        if (data := load(bundle, name)) is None:
            continue  # gone since the directory was listed: as if it had never been there
        content[name] = data
        left -= len(data) if is_root else 0
        if left < 0:
            raise _refused(f"the roots have more than {ROOTS_LENGTH} bytes", bundle)
    return Files(str(bundle), content, tuple(strangers))


def load(bundle: Path, name: str) -> bytes | None:
    """One file of a metadata directory; None when it is not there.

    Raises:
        TrustError: it is a link or a device, cannot be read, or is longer than metadata of its kind may be.
    """
    limit = LENGTHS.get(name, ROOT_LENGTH)
    path = f"{DIRECTORY}/{name}"
    try:
        with tree.open_beneath(bundle, path) as file:
            data = bytearray()
            while len(data) <= limit and (piece := file.read(limit + 1 - len(data))):
                data += piece
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise _refused(f"longer than the {limit:,} bytes that metadata of its kind may have", bundle / path)
    return bytes(data)


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files into ``directory``/metadata, the timestamp last: with it a release can be verified.

    Raises:
        OSError: the disk is full or refuses.
    """
    for name in sorted(files, key=lambda n: (n == "timestamp.json", n)):
        durable.write(directory / DIRECTORY / name, files[name])


def add(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write those of ``files`` that ``directory``/metadata does not have yet."""
    write(directory, {n: d for n, d in files.items() if not (directory / DIRECTORY / n).exists()})


def size(bundle: Path) -> int:
    """Bytes of all files in the metadata directory."""
    return sum(len(d) for d in read(bundle).content.values())


def _names(bundle: Path) -> list[tuple[str, str]]:
    """Names in the metadata directory with what each is, sorted."""
    found: list[tuple[str, str]] = []
    try:
        fd = os.open(bundle / DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if len(found) == MAX_FILES:
                        raise _refused(f"metadata/ has more than {MAX_FILES} files", bundle)
                    found.append((entry.name, _kind(entry.stat(follow_symlinks=False).st_mode)))
        finally:
            os.close(fd)
    except OSError as error:
        raise TrustError(
            f"cannot be listed, or changed while it was read: {error.strerror}",
            where=printable(str(bundle / DIRECTORY), ""),
            remedy="Make sure that nothing else writes there and that it is readable, then try again.",
        ) from error
    return sorted(found)


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "special"


def _refused(what: str, where: Path) -> TrustError:
    return TrustError(what, where=printable(str(where), ""), remedy=REMEDY)
