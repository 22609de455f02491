"""The engine's `verify`, as the starting kit runs it, ends with a documented code and without a traceback whatever its streams are."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make

TREE = Path(__file__).resolve().parents[2]
# What the kit's script runs, but for the wheels that it unpacks.
KIT = 'import sys; sys.argv = ["./verify", "verify", "--root", *sys.argv[1:]]; from engine.cli import main; main()'


def verify(tmp_path: Path, end: str, *operands: str | Path, damaged: bool = False) -> subprocess.CompletedProcess[str]:
    """What became of a check of a bundle whose streams end in ``end``."""
    bundle = make(tmp_path, {"files/a.txt": b"a"})
    (tmp_path / "root.json").write_bytes(bundle.root)
    if damaged:
        (bundle.path / "content/files/a.txt").write_bytes(b"b")
    argv = [sys.executable, "-P", "-c", KIT, str(tmp_path / "root.json"), *map(str, operands or [bundle.path])]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    line = f"{shlex.join(argv)} {end}"
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("end", "damaged", "code"),
    [
        ("", False, 0), ("", True, 3), (">&-", False, 0), (">&-", True, 3), ("2>&-", False, 0), (">&- 2>&- <&-", True, 3),
        (">/dev/full", False, 6), (">/dev/full 2>&-", False, 6), ("| true; exit ${PIPESTATUS[0]}", False, 1),
    ],
)  # fmt: skip
def test_a_check_ends_with_its_code_whatever_its_streams_are(
    tmp_path: Path, end: str, damaged: bool, code: int
) -> None:
    done = verify(tmp_path, end, damaged=damaged)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if end == ">/dev/full":
        assert "cannot write the result: the disk is full" in done.stderr


def test_a_root_that_is_none_is_named_without_a_traceback(tmp_path: Path) -> None:
    done = verify(tmp_path, "", tmp_path, "--root", "/etc/hostname")
    assert done.returncode == 3
    assert "this is no root of trust" in done.stderr and "/etc/hostname" in done.stderr


def test_the_kits_help_is_of_the_kits_command(tmp_path: Path) -> None:
    said = verify(tmp_path, "", "--help").stdout
    assert said.startswith("usage: ./verify [-h] [--json]")
    assert "--root" not in said and "appliance-engine" not in said
