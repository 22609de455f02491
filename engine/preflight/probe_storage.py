"""Room on file systems, and how fast the disk of the models is.

The disk is measured in a file without a name (O_TMPFILE): no directory changes, and its space is free again the moment it
is closed, also when the probe is killed. Where a file system cannot make one, nothing is measured.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from engine.preflight.facts import Disk, Question, Space, Storage

SYNCS = 200
SYNC_BYTES = 4096
SYNC_LIMIT_S = 4.0
READ_BYTES = 256 << 20
READ_LIMIT_S = 6.0
CHUNK = 4 << 20
_SPARE = 8  # a file is only written when this many times its size is free
_MEMORY = ("tmpfs", "ramfs", "overlay")  # what is read back may come from memory


def storage(question: Question) -> Storage:
    """Room for every path of the question, and the disk's speed when it asks for it."""
    lacking = sum(size for sha256, size in question.blobs.items() if not _has(Path(question.blob_store), sha256, size))
    spaces = tuple(space(path, mounts()) for path in question.spaces)
    present = tuple(file for file in question.files if Path(file).exists())
    return Storage(spaces, lacking, present, disk(question.disk) if question.disk else None)


def mounts(file: str = "/proc/self/mountinfo") -> dict[str, str]:
    """Mount points with the type of what is mounted there last; format of proc(5)."""
    found = {}
    with Path(file).open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            place = before.split(" ")[4].encode().decode("unicode_escape")
            found[place] = after.split(" ")[0]
    return found


def space(path: str, mounted: dict[str, str]) -> Space:
    """Room where ``path`` is or would be made."""
    here = existing(path).resolve()  # content may be reached through a link, into a file system of its own
    stat, device = os.statvfs(here), here.stat().st_dev
    mount = here
    while str(mount) not in mounted and mount != mount.parent:
        mount = mount.parent
    return Space(
        path=path,
        mount=str(mount),
        filesystem=mounted.get(str(mount), ""),
        device=f"{os.major(device)}:{os.minor(device)}",
        free_bytes=stat.f_bavail * stat.f_frsize,
        free_inodes=stat.f_favail,
        read_only=bool(stat.f_flag & os.ST_RDONLY),
    )


def disk(directory: str) -> Disk:
    """Latency of fsync and rate of reading below ``directory``, or the nearest directory above that is there."""
    here = existing(directory)
    kind = space(str(here), mounts()).filesystem
    try:
        descriptor = os.open(here, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return Disk(str(here), kind, 0, None, None, None, f"cannot make a file without a name: {error.strerror}")
    try:
        times = _sync_times(descriptor)
        rate, note = _read_rate(descriptor, kind)
    except OSError as error:
        return Disk(str(here), kind, 0, None, None, None, os.strerror(error.errno or errno.EIO))
    finally:
        os.close(descriptor)
    times.sort()
    return Disk(str(here), kind, len(times), quantile(times, 0.5) * 1e3, quantile(times, 0.99) * 1e3, rate, note)


def quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile of sorted values."""
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def existing(path: str | Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    here = Path(path)
    while not here.exists() and here != here.parent:
        here = here.parent
    return here


def _has(store: Path, sha256: str, size: int) -> bool:
    """As engine.blobs lays them out."""
    try:
        return (store / "sha256" / sha256[:2] / sha256).stat().st_size == size
    except OSError:
        return False


def _sync_times(descriptor: int) -> list[float]:
    """Seconds of each write and fsync of one page, appended as a journal would."""
    times: list[float] = []
    page, begin = os.urandom(SYNC_BYTES), time.monotonic()
    while len(times) < SYNCS and (not times or time.monotonic() - begin < SYNC_LIMIT_S):
        start = time.perf_counter()
        os.write(descriptor, page)
        os.fsync(descriptor)
        times.append(time.perf_counter() - start)
    return times


def _read_rate(descriptor: int, kind: str) -> tuple[float | None, str]:
    """Bytes a second of one sequential reader, after the kernel was told to forget what it keeps of the file."""
    stat = os.fstatvfs(descriptor)
    if stat.f_bavail * stat.f_frsize < _SPARE * READ_BYTES:
        return None, "too little is free to measure reading"
    chunk, size, begin = os.urandom(CHUNK), 0, time.monotonic()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while size < READ_BYTES and time.monotonic() - begin < READ_LIMIT_S:
        size += os.write(descriptor, chunk)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(descriptor, 0, os.SEEK_SET)
    begin, done = time.perf_counter(), 0
    while done < size and (got := len(os.read(descriptor, CHUNK))):
        done += got
    rate = done / (time.perf_counter() - begin)
    return rate, f"{kind} may have answered from memory" if kind in _MEMORY else ""
