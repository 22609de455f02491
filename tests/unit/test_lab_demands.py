"""What a lab needs of its host is asked for before anything is made, by the name of the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.errors import InputError, ResourceError
from installer.lab import state
from installer.lab.lab import down, sweep, up


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    monkeypatch.setattr(state, "DISK", tmp_path / "disk")


def test_a_lab_without_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for call in (lambda: up("try"), lambda: down("try"), sweep):
        with pytest.raises(ResourceError, match="needs root"):
            call()
    assert not state.RUN.exists()


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        shutil, "which", lambda tool, path: None if tool in ("systemd-nspawn", "nft") else f"/usr/bin/{tool}"
    )
    with pytest.raises(ResourceError, match="systemd-nspawn, nft is not installed") as missing:
        up("try")
    assert missing.value.remedy == "Install it: apt-get install systemd-container nftables"
    assert not state.RUN.exists()


def test_a_wrong_argument_is_refused_before_root_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match="not a lab name"):
        up("No Name")
    with pytest.raises(InputError, match="not a release"):
        up("try", release="sid")
    with pytest.raises(InputError, match="1 to 50 nodes"):
        up("try", nodes=0)
