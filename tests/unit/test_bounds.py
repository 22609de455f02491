"""A tool that goes beyond its bounds is ended with all that it started, and the bound is named."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from engine.bounds import Bounds, BoundsError, used
from engine.process import ProcessError, run

MIB = 1 << 20
# Writes files of 1 MiB into the directory named first, 64 at the most: a bound that does not hold fills no disk.
FILLS = "import sys, pathlib\nfor n in range(64): pathlib.Path(sys.argv[1], str(n)).write_bytes(bytes(1 << 20))\n"


def python(code: str, *args: object, bounds: Bounds, stdin: str | None = None) -> str:
    return run([sys.executable, "-c", code, *map(str, args)], inherit=False, bounds=bounds, stdin=stdin).stdout


def test_what_stays_within_its_bounds_runs_as_ever() -> None:
    bounds = Bounds(memory=256 * MIB, file=MIB, time_s=60)
    assert python("print(input())", bounds=bounds, stdin="hello\n") == "hello\n"
    with pytest.raises(ProcessError) as failed:
        python("import sys; sys.exit('why')", bounds=bounds)
    assert (failed.value.code, failed.value.stderr.strip()) == (1, "why")


def test_memory_is_bounded() -> None:
    with pytest.raises(BoundsError, match="more than 209,715,200 bytes of memory") as beyond:
        python("x = bytearray(400 << 20)", bounds=Bounds(memory=200 * MIB, time_s=60))
    assert beyond.value.which == "memory"


@pytest.mark.parametrize("signal", ["SIG_DFL", "SIG_IGN"])
def test_the_length_of_a_file_is_bounded(tmp_path: Path, signal: str) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGXFSZ, signal.{signal}); open(sys.argv[1], 'wb').write(bytes(3 << 20))"
    with pytest.raises(BoundsError) as beyond:
        python(code, tmp_path / "a", bounds=Bounds(file=MIB, time_s=60))
    assert beyond.value.which == "file"
    assert (tmp_path / "a").stat().st_size <= MIB


@pytest.mark.parametrize("after", ["", "import time; time.sleep(600)"])
def test_disk_is_bounded_also_for_one_that_was_faster_than_a_look(tmp_path: Path, after: str) -> None:
    with pytest.raises(BoundsError, match="wrote more than 8,388,608 bytes") as beyond:
        python(FILLS + after, tmp_path, bounds=Bounds(directory=tmp_path, disk=8 * MIB, time_s=60))
    assert beyond.value.which == "disk"


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bounds.LEFT_FREE", 1 << 60)
    with pytest.raises(BoundsError, match="left less than") as beyond:
        python("import time; time.sleep(600)", bounds=Bounds(directory=tmp_path, time_s=60))
    assert beyond.value.which == "space"
    assert "Free space" in beyond.value.remedy


def test_output_is_bounded() -> None:
    with pytest.raises(BoundsError) as beyond:
        python("while True: print('x' * 10000)", bounds=Bounds(output=MIB, time_s=60))
    assert beyond.value.which == "output"


@pytest.mark.parametrize("how", ["beyond", "well"])
def test_what_it_started_is_ended_with_it(tmp_path: Path, how: str) -> None:
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    )
    if how == "beyond":
        with pytest.raises(BoundsError, match="did not end within"):
            python(code + "time.sleep(600)", tmp_path / "pid", bounds=Bounds(time_s=5))
    else:
        python(code, tmp_path / "pid", bounds=Bounds(time_s=60))
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while _runs(child):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_links_and_second_names_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").write_bytes(os.urandom(4 * MIB))
    (tmp_path / "in/a").write_bytes(os.urandom(MIB))
    (tmp_path / "in/b").hardlink_to(tmp_path / "in/a")
    (tmp_path / "in/c").symlink_to(tmp_path / "outside")
    (tmp_path / "in/d").symlink_to(tmp_path)
    os.truncate(tmp_path / "in/a", 64 * MIB)  # sparse: what is not on the disk does not count
    assert MIB <= used(tmp_path / "in") < 2 * MIB
