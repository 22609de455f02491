"""File systems of media for tests: an exFAT in a file, through Debian's FUSE driver, since the kernels of builders may have none."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exfat(scratch: Path, size: int) -> Iterator[Path]:
    """An empty exFAT of ``size`` bytes (sparse) that is mounted until the block ends."""
    image, place = scratch / "exfat.img", scratch / "exfat"
    with image.open("wb") as file:
        file.truncate(size)
    device = _run("losetup", "--find", "--show", str(image)).strip()
    try:
        _run("mkfs.exfat", device)
        with _mounted(["mount.exfat-fuse", device], place):
            yield place
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def fat32(scratch: Path, size: int) -> Iterator[Path]:
    """An empty FAT32, to ask and not to fill: this driver loses what is in a directory that is renamed."""
    image, place = scratch / "fat32.img", scratch / "fat32"
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.vfat", "-F", "32", str(image))
    with _mounted(["fusefat", "-o", "rw+", str(image)], place):
        yield place


@contextmanager
def _mounted(command: list[str], place: Path) -> Iterator[None]:
    place.mkdir()
    _run(*command, str(place))
    try:
        yield
    finally:
        # A process that ended a moment ago may hold the mount for another moment.
        deadline = time.monotonic() + 20
        while subprocess.run(["umount", place], check=False, capture_output=True).returncode:
            assert time.monotonic() < deadline, f"{place} stays busy"


def _run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
