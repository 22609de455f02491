"""The two archives inside a Debian package, from dpkg-deb, as bounded streams.

`dpkg-deb --show` and `--field` unpack the whole control archive into a temporary directory first, however large it is, so
``require_small_control`` looks at it before they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installer import tarstream, unpack

MAX_CONTROL = 64 << 20  # bytes unpacked; the check sums of 100 000 files are about 8 MB
MEMORY = 512 << 20  # bytes of dpkg-deb's address space; `xz -9` takes 65 MiB of it, zstd's widest window 128


@contextmanager
def control(deb: Path) -> Iterator[tarstream.Reader]:
    """The control archive's members.

    Raises:
        TrustError: it is damaged, or more than ``MAX_CONTROL`` bytes come out of it (while it is read).
    """
    with _archive(deb, "--ctrl-tarfile", MAX_CONTROL) as reader:
        yield reader


@contextmanager
def files(deb: Path) -> Iterator[tarstream.Reader]:
    """The members that would be installed.

    Raises:
        TrustError: it is damaged, or far more comes out than its size allows (while it is read).
    """
    with _archive(deb, "--fsys-tarfile", unpack.allowance(deb.stat().st_size)) as reader:
        yield reader


def require_small_control(deb: Path) -> None:
    """The control archive may be handed to programs that unpack it.

    Raises:
        TrustError: it is damaged or too large.
    """
    with control(deb) as members:
        for _member in members:
            pass


@contextmanager
def _archive(deb: Path, which: str, limit: int) -> Iterator[tarstream.Reader]:
    argv = ["prlimit", f"--as={MEMORY}", "dpkg-deb", which, str(deb)]
    with unpack.output(argv, limit, deb.name, program="dpkg-deb", package="dpkg") as stream:
        yield tarstream.Reader(stream, deb.name)
