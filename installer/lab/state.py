"""What is on record about a lab, and who may touch it now."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import durable
from installer.lab.plan import Node

RUN = Path("/run/appliance/lab")  # gone after a reboot, like the processes it describes
DISK = Path("/var/lib/appliance/lab")  # what nodes write; too big for memory
MARK = "APPLIANCE_LAB_MARK"


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    started: int  # clock ticks after boot, from /proc/PID/stat

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        return _stat(self.pid) == self.started


def process(pid: int) -> Process | None:
    """The running process ``pid``, or None."""
    started = _stat(pid)
    return None if started is None else Process(pid, started)


def _stat(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold spaces and brackets
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class State:
    """One lab on record. Written before anything of it is made, so that a killed maker leaves nothing unknown."""

    name: str
    prefix: str
    release: str
    nodes: tuple[Node, ...]
    maker: Process
    owner: Process | None  # None: stays until it is taken down
    cgroups: tuple[str, ...]  # directories made for it, one for each hierarchy
    mark: str  # random; in the environment of every process started for it
    prefix6: str = ""  # empty in a lab without IPv6
    machines: tuple[Process, ...] = ()
    ready: bool = False

    @property
    def directory(self) -> Path:
        return RUN / self.name

    @property
    def environment(self) -> dict[str, str]:
        """What marks a process as started for this lab, so that it is found when its maker was killed."""
        return {MARK: self.mark}

    def orphaned(self) -> bool:
        """Whether nobody is left who would take it down: its owner ended, or its maker ended half way."""
        if self.owner is not None and not self.owner.alive():
            return True
        return not self.ready and not self.maker.alive()

    def write(self) -> None:
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        durable.write(self.directory / "state.json", json.dumps(asdict(self), indent=2))


def read(name: str) -> State | None:
    """The record of lab ``name``, or None; an unreadable record counts as none."""
    try:
        raw = json.loads((RUN / name / "state.json").read_text())
        return State(
            name=raw["name"],
            prefix=raw["prefix"],
            prefix6=raw.get("prefix6", ""),
            release=raw["release"],
            nodes=tuple(Node(**n) for n in raw["nodes"]),
            maker=Process(**raw["maker"]),
            owner=Process(**raw["owner"]) if raw["owner"] else None,
            cgroups=tuple(raw["cgroups"]),
            mark=raw["mark"],
            machines=tuple(Process(**m) for m in raw["machines"]),
            ready=raw["ready"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def recorded(name: str) -> bool:
    """Whether lab ``name`` has a record, also one of another version that ``read`` cannot take."""
    return (RUN / name / "state.json").exists()


def known() -> list[str]:
    """Names of all labs that left a trace on this host."""
    places = (d for root in (RUN, DISK) if root.is_dir() for d in root.iterdir())
    return sorted({d.name for d in places if d.is_dir() and not d.name.startswith(".")})


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes; wait for as long as another holds it. The file is gone afterwards."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(fd, path):
                break
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the holder before us removed this file: the lock is now another one
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def drop_stale_locks() -> None:
    """Delete lock files whose holders were killed."""
    for path in RUN.glob(".*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, path):
                    path.unlink()
            finally:
                os.close(fd)


def lab_lock(name: str) -> Path:
    return RUN / f".{name}.lock"


def address_lock() -> Path:
    return RUN / ".addresses.lock"
