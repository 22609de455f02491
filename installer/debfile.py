"""The two archives inside a Debian package, from dpkg-deb, as bounded streams.

`dpkg-deb --show` and `--field` unpack the whole control archive into a temporary directory first, however large it is, so
``require_small_control`` looks at it before they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.bounds import Bounds
from installer import tarstream, unpack

MAX_CONTROL = 64 << 20  # bytes unpacked; the check sums of 100 000 files are about 8 MB
MEMORY = 512 << 20  # bytes of dpkg-deb's address space; `xz -9` takes 65 MiB of it, zstd's widest window 128
# What dpkg-deb may use to tell the fields of a package, whose control archive it unpacks into a temporary directory.
BOUNDS = Bounds(memory=MEMORY, file=MAX_CONTROL, time_s=300.0)


@contextmanager
def control(deb: Path, name: str = "") -> Iterator[tarstream.Reader]:
    """The control archive's members.

    Args:
        name: what to call the package in a refusal; in a store its file is named by its hash.

    Raises:
        TrustError: it is damaged, or more than ``MAX_CONTROL`` bytes come out of it (while it is read).
    """
    with _archive(deb, "--ctrl-tarfile", MAX_CONTROL, name or deb.name) as reader:
        yield reader


@contextmanager
def files(deb: Path, name: str = "") -> Iterator[tarstream.Reader]:
    """The members that would be installed; ``name`` as for ``control``.

    Raises:
        TrustError: it is damaged, or far more comes out than its size allows (while it is read).
    """
    with _archive(deb, "--fsys-tarfile", unpack.allowance(deb.stat().st_size), name or deb.name) as reader:
        yield reader


@contextmanager
def files_of_input(size: int, name: str) -> Iterator[tarstream.Reader]:
    """As ``files``, of a package of ``size`` bytes that standard input is open at."""
    with _archive("-", "--fsys-tarfile", unpack.allowance(size), name) as reader:
        yield reader


def require_small_control(deb: Path, name: str = "") -> None:
    """The control archive may be handed to programs that unpack it; ``name`` as for ``control``.

    Raises:
        TrustError: it is damaged or too large.
    """
    with control(deb, name) as members:
        for _member in members:
            pass


@contextmanager
def _archive(deb: Path | str, which: str, limit: int, name: str) -> Iterator[tarstream.Reader]:
    argv = ["prlimit", f"--as={MEMORY}", "dpkg-deb", which, str(deb)]
    with unpack.output(argv, limit, name, program="dpkg-deb", package="dpkg") as stream:
        yield tarstream.Reader(stream, name)
