"""Secrets that tools read as files: with no name, for nobody else, and gone with the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import InputError
from installer.trust.secret import passphrase, private_copy

SECRET = "correct horse battery staple"


def test_a_tool_reads_it_again_and_again_and_others_may_not() -> None:
    with private_copy(SECRET) as path:
        for _ in range(2):
            assert subprocess.run(["cat", path], capture_output=True, text=True, check=True).stdout == SECRET
        assert path.stat().st_mode & 0o777 == 0o600
        other = subprocess.run(
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert other.returncode != 0
        assert SECRET not in other.stdout
    assert not path.exists()


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import time\nfrom installer.trust.secret import private_copy\n"
        f"with private_copy({SECRET!r}) as path:\n    print(path, flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert child.stdout is not None
    path = Path(child.stdout.readline().strip())
    assert path.read_text() == SECRET
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not path.exists()
    assert not list(tmp_path.iterdir())


def test_nobody_is_told_to_change_the_mode_of_a_device() -> None:
    with pytest.raises(InputError, match="this is a device, not a regular file") as refused:
        passphrase(Path("/dev/null"), purpose="the keys")
    assert "chmod" not in refused.value.remedy
