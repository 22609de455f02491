"""Every process goes through one door."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine import process
from engine.bounds import Bounds
from engine.errors import ApplianceError, ResourceError
from engine.process import ProcessError, run


def test_a_tool_of_administrators_is_found_whatever_the_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert run(["nft", "--version"]).stdout.startswith("nftables")


def test_a_missing_tool_says_what_to_install() -> None:
    with pytest.raises(ResourceError, match="apt-get install the-package"):
        run(["no-such-tool-anywhere"], package="the-package")


def test_a_failure_shows_the_end_of_what_the_process_said() -> None:
    with pytest.raises(ProcessError, match="exited with 3: at the end") as failed:
        run([sys.executable, "-c", "import sys; sys.stderr.write('at the end'); sys.exit(3)"])
    assert failed.value.code == 3


def test_an_allowed_exit_code_is_no_failure() -> None:
    assert run([sys.executable, "-c", "raise SystemExit(1)"], ok=(0, 1)).returncode == 1


def test_a_process_that_does_not_end_is_ended() -> None:
    with pytest.raises(ApplianceError, match="did not end within"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5)


def test_a_secret_on_standard_input_is_not_on_the_command_line() -> None:
    shown = run(
        [sys.executable, "-c", "import sys; print(open('/proc/self/cmdline').read()); print(len(sys.stdin.read()))"],
        stdin="hush-hush",
    ).stdout
    assert "hush" not in shown
    assert shown.strip().endswith("9")


def test_what_a_start_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are set by two programs; a script needs its interpreter, and a child its directory. None of these is a limit of the user."""
    script = tmp_path / "tool"
    script.write_text("#!/nowhere/python\n")
    script.chmod(0o755)
    with pytest.raises(ResourceError, match="first line names") as caught:
        run([script])
    assert "ulimit" not in caught.value.remedy
    with pytest.raises(ResourceError, match="the directory to run it in") as caught:
        run(["true"], cwd=tmp_path / "gone")
    assert caught.value.where == str(tmp_path / "gone")
    monkeypatch.setattr(process, "search_path", lambda _: str(tmp_path))
    script.write_text("#!/bin/sh\n")
    with pytest.raises(ResourceError, match=r"prlimit is not installed"):
        run([script], bounds=Bounds(memory=1 << 28), inherit=False)
