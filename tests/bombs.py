"""Reads hostile archives one by one, each in a process with 512 MiB of memory and a file system of 1 MiB: `python -m tests.bombs DIR`.

One JSON line each: how it ended, in what time, and how much was written. Run by tests/unit/test_bombs.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import ApplianceError
from engine.tree import Entry
from installer import debfile, intake, safetensors, tarstream, unpack
from installer.carry import volumes
from installer.evidence import imagefiles, texts
from installer.kinds import debaudit, wheels

MEMORY = 512 << 20
DISK = 1 << 20
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def index(path: Path) -> object:
    return debaudit.packages_of(path, set())


def signed_index(path: Path) -> object:
    return debaudit.packages_of(path, set(), size=100_000)


def layer(path: Path) -> object:
    with unpack.opened(path) as stream:
        return imagefiles.look(tarstream.Reader(stream, path.name), imagefiles.Budget())


def tensors(path: Path) -> object:
    with path.open("rb") as file:
        return safetensors.check(file, path.stat().st_size, path.name)


def model_json(path: Path) -> object:
    data = path.read_bytes()
    verdict = intake.examine([Entry("config.json", "file", len(data))], lambda _p, n: data[:n], licence="MIT")
    raise ApplianceError("; ".join(f.reason for f in verdict.refused if f.rule == "json"))


def volume(path: Path) -> object:
    return volumes.read_index(path)


READERS: dict[str, Callable[[Path], object]] = {
    "control": debfile.require_small_control, "files": texts.of_deb, "index": index, "signed_index": signed_index,
    "layer": layer, "metadata": wheels.metadata_of, "licences": texts.of_wheel, "tensors": tensors,
    "model_json": model_json, "volume": volume,
}  # fmt: skip


def one(reader: str, path: Path, disk: Path) -> dict[str, object]:
    """Read ``path`` in this process, which is then of no use for anything else; ``disk`` becomes its only place to write."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"tmpfs", bytes(disk), b"tmpfs", 0, b"size=%d" % DISK)
    ):
        raise OSError(ctypes.get_errno(), "cannot mount a file system of this process")
    os.environ["TMPDIR"] = tempfile.tempdir = str(disk)
    # Of private memory, which is what a bomb fills; threads reserve address space that they never touch.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    begin, spent = time.monotonic(), _cpu()
    try:
        READERS[reader](path)
        end = "read"
    except ApplianceError as error:
        end = f"refused: {error.what}"
    except BaseException as error:
        end = f"{type(error).__name__}: {error}"
    return {
        "name": f"{reader}/{path.name}", "end": end, "seconds": round(time.monotonic() - begin, 2),
        "cpu_s": round(_cpu() - spent, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "left": [p.name for p in disk.iterdir()],
    }  # fmt: skip


def _cpu() -> float:
    """Seconds of processor time of this process and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in both)


def main(directory: Path) -> None:
    """Every file READER/NAME below ``directory``."""
    for path in sorted(directory.glob("*/*")):
        disk = Path(tempfile.mkdtemp(prefix="appliance-bomb-"))
        if pid := os.fork():
            os.waitpid(pid, 0)
            disk.rmdir()  # what was on it was the child's alone
            continue
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(one(path.parent.name, path, disk)) + "\n")
            sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
