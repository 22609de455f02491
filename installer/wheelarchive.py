"""A wheel's zip archive, read within bounds whatever it claims of itself."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import TrustError

MAX_DIRECTORY = (
    16 << 20
)  # bytes of the list of files; a wheel of 15 000 files has 2 MB, and objects take ten times as much
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
def opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """The archive of a wheel.

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
            f"not a wheel that can be read: {error}", where=wheel.name, remedy="Lock again from a sound source."
        ) from error


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
