"""Asking Ansible for an inventory ahead of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import InputError
from installer.site import ansiblelist


def test_what_was_begun_is_used_once_and_then_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def ask(path: Path) -> ansiblelist.Listing:
        asked.append(path)
        return ansiblelist.Listing({"number": (str(len(asked)),)}, {})

    monkeypatch.setattr(ansiblelist, "ask", ask)
    ansiblelist.begin(tmp_path)
    assert ansiblelist.listing(tmp_path).groups == {"number": ("1",)}
    assert ansiblelist.listing(tmp_path).groups == {"number": ("2",)}
    assert asked == [tmp_path, tmp_path]


def test_its_error_comes_when_it_is_used(tmp_path: Path) -> None:
    ansiblelist.begin(tmp_path / "none")
    with pytest.raises(InputError, match="no such inventory"):
        ansiblelist.listing(tmp_path / "none")
