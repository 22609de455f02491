"""What is written is flushed: file by file, or together before anybody can see it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import durable
from engine.errors import InputError


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was flushed, in order; ``all`` for the file system."""
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(Path(f"/proc/self/fd/{fd}").resolve().name))
    monkeypatch.setattr(durable, "_sync_file_system", lambda path: seen.append(f"all of {path.name}"))
    return seen


def test_a_file_is_flushed_and_then_its_directory(tmp_path: Path, flushed: list[str]) -> None:
    durable.write(tmp_path / "a", "x")
    assert len(flushed) == 2
    assert flushed[0].startswith(".a.")
    assert flushed[1] == tmp_path.name


def test_files_of_a_directory_are_flushed_together_and_others_at_once(tmp_path: Path, flushed: list[str]) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    with durable.together(staging):
        durable.write(staging / "deep/a", "x")
        assert flushed == []
        durable.write(tmp_path / "b", "x")
        assert len(flushed) == 2
    assert flushed[2:] == ["all of staging"]
    durable.write(staging / "c", "x")
    assert len(flushed) == 5


def test_what_failed_is_not_flushed_and_the_next_write_is(tmp_path: Path, flushed: list[str]) -> None:
    with pytest.raises(ValueError, match="broken"), durable.together(tmp_path):
        raise ValueError("broken")
    assert flushed == []
    durable.write(tmp_path / "a", "x")
    assert len(flushed) == 2


def test_the_file_system_is_really_flushed_and_a_refusal_is_told(tmp_path: Path) -> None:
    with durable.together(tmp_path):
        durable.write(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
    with pytest.raises(FileNotFoundError):
        durable._sync_file_system(tmp_path / "absent")


def test_a_tree_that_has_no_place_names_the_place_that_was_given(tmp_path: Path) -> None:
    """Not the temporary name beside it, which nobody chose."""
    (tmp_path / "source").mkdir()
    for target in (Path("/proc/x"), tmp_path / "source" / ("x" * 250)):
        with pytest.raises(InputError) as refused:
            durable.copy_tree(tmp_path / "source", target)
        assert refused.value.where == str(target)
