"""Sweep takes away what is abandoned, all of it that it can, and says what it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ApplianceError
from installer.lab import lab, state


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    monkeypatch.setattr(state, "DISK", tmp_path / "disk")
    monkeypatch.setattr(lab, "demand_root_and_tools", lambda: None)


def test_one_lab_that_cannot_be_removed_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (state.DISK / name).mkdir(parents=True)  # a disk without a record: what a reboot leaves
    removed = []

    def remove(name: str) -> None:
        if name == "b":
            raise ApplianceError("the disk of b is busy")
        removed.append(name)

    monkeypatch.setattr(lab, "_remove", remove)
    with pytest.raises(ApplianceError, match="disk of b is busy"):
        lab.sweep()
    assert removed == ["a", "c"]


def test_a_lab_recorded_by_another_version_is_left_to_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    (state.RUN / "newer").mkdir(parents=True)
    (state.RUN / "newer/state.json").write_text('{"format": "unknown"}')
    monkeypatch.setattr(lab, "_remove", lambda _name: pytest.fail("it was removed"))
    assert lab.sweep() == []
