"""A rehearsal's directory goes away with it; those of killed rehearsals go with the next, those in use stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import ResourceError
from installer.lab import state
from installer.rehearse import stage


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "WORK", tmp_path / "work")
    monkeypatch.setattr(stage, "sweep", lambda: None)
    monkeypatch.setattr(state, "RUN", tmp_path / "run")


def left_behind(name: str, maker: list[int]) -> Path:
    directory = stage.WORK / name
    directory.mkdir(parents=True)
    (directory / "maker").write_text(json.dumps(maker))
    return directory


def me() -> list[int]:
    process = state.process(os.getpid())
    assert process is not None
    return [process.pid, process.started]


def recorded(name: str) -> None:
    (state.RUN / name).mkdir(parents=True)
    (state.RUN / name / "state.json").write_text("{}")


def test_what_killed_rehearsals_left_goes_and_what_is_in_use_or_kept_stays() -> None:
    pid, started = me()
    dead, busy, kept = (
        left_behind("dead", [pid, started - 1]),
        left_behind("busy", me()),
        left_behind("kept", [pid, started - 1]),
    )
    (left_behind("half", []) / "maker").unlink()
    recorded("kept")
    with stage.place("new", keep=False) as work:
        assert {d.name for d in stage.WORK.iterdir()} == {"busy", "kept", "new"}
        assert work.stat().st_mode & 0o777 == 0o711
    assert not dead.exists()
    assert busy.exists()
    assert kept.exists()


@pytest.mark.parametrize(("keep", "up", "stays"), [(False, True, False), (True, True, True), (True, False, False)])
def test_the_directory_stays_only_with_nodes_that_were_left(keep: bool, up: bool, stays: bool) -> None:
    with pytest.raises(RuntimeError), stage.place("one", keep=keep) as work:
        if up:
            recorded("one")
        raise RuntimeError
    assert work.exists() is stays


def test_too_little_space_is_said_before_anything_is_made(tmp_path: Path) -> None:
    stage.require_space(tmp_path, 1000, 2)
    with pytest.raises(ResourceError, match="bytes too few are free for 3 nodes"):
        stage.require_space(tmp_path, 1 << 60, 3)
