"""A wheel's zip archive, read within bounds whatever it claims of itself."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import TrustError
from installer import unpack

MAX_DIRECTORY = (
    16 << 20
)  # bytes of the list of files; a wheel of 15 000 files has 2 MB, and objects take ten times as much
# What installers read as a whole, and bytes of it that are honest; the largest wheels there are have a RECORD of 2 MB.
READ_WHOLE = {"METADATA": 4 << 20, "WHEEL": 1 << 20, "entry_points.txt": 4 << 20, "RECORD": 64 << 20}
DIST_INFO = re.compile(r"[^/]+\.dist-info/([^/]+)")
LOCAL_HEADER = 30  # bytes before a file's name and content
# The standard library stops in time when it inflates; of the other methods it unpacks whatever a block gives.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Guarded(io.FileIO):
    """A file of which nobody reads more than ``MAX_DIRECTORY`` bytes at once: the reader takes the list of files in one."""

    def read(self, n: int | None = -1) -> bytes:
        if n is None or n < 0:
            n = self.seek(0, io.SEEK_CUR)
            n = self.seek(0, io.SEEK_END) - self.seek(n)
        if n > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"{n:,} bytes shall be read at once")
        return super().read(n) or b""


@contextmanager
def opened(wheel: Path, name: str = "") -> Iterator[zipfile.ZipFile]:
    """The archive of a wheel.

    Args:
        name: what to call it in a refusal; in a store its file is named by its hash.

    Raises:
        TrustError: it is none, is damaged, or lists more files than any wheel has.
    """
    try:
        with _Guarded(wheel) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except TrustError:
        raise
    except Exception as error:  # zipfile and its decompressors raise a dozen types on bytes of a stranger
        raise TrustError(
            f"not a wheel that can be read: {error}", where=name or wheel.name, remedy="Lock again from a sound source."
        ) from error


def require_bounded(wheel: Path, name: str = "") -> int:
    """The wheel may be handed to a tool that unpacks it: what it lists is no more than an honest wheel of its size holds.

    The list is what tools go by, and they may be lied to: whoever unpacks must also watch that no more comes out than it says.

    Returns:
        Bytes of all its files as the list has them.

    Raises:
        TrustError: it is damaged, a bomb, or has files outside of itself.
    """
    with opened(wheel, name) as archive:
        return require_bounded_archive(archive, wheel.stat().st_size, name or wheel.name)


def require_bounded_archive(archive: zipfile.ZipFile, packed: int, name: str) -> int:
    """As ``require_bounded``, for an open archive of ``packed`` bytes."""
    total = end = 0
    for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
        if info.compress_type not in METHODS or info.flag_bits & 1:
            raise _refused(f"{info.filename[:80]!a} is packed by a method that wheels do not use", name)
        if info.filename.startswith("/") or ".." in info.filename.split("/") or "\\" in info.filename:
            raise _refused(f"it holds {info.filename[:80]!a}, which leads out of it", name)
        if info.header_offset < end:
            raise _refused(f"{info.filename[:80]!a} overlaps the file before it", name)
        whole = DIST_INFO.fullmatch(info.filename)
        most = READ_WHOLE.get(whole[1], 0) if whole else 0
        if most and read(archive, info, most) is None:  # read, for its size in the list is the archive's own word
            raise _refused(f"{info.filename[:80]} has more than {most:,} bytes", name)
        end = info.header_offset + LOCAL_HEADER + info.compress_size
        total += info.file_size
    if end > packed:
        raise _refused("its list names more bytes than it has", name)
    if total > unpack.allowance(packed):
        raise _refused(f"its {packed:,} bytes unpack to {total:,}, more than an honest wheel of its size holds", name)
    return total


def _refused(what: str, name: str) -> TrustError:
    return TrustError(
        what, where=name, remedy="Do not use this wheel: get it again from a sound source, or pin another version."
    )


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes | None:
    """A file of it; None when it has more than ``limit`` bytes, whatever the archive says of its size.

    Raises:
        zipfile.BadZipFile: it is damaged, encrypted, or packed in a way that no wheel is. ``opened`` makes it a refusal.
    """
    if info.compress_type not in METHODS or info.flag_bits & 1:
        raise zipfile.BadZipFile(f"{info.filename[:80]!a} is packed by a method that wheels do not use")
    with archive.open(info) as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None
