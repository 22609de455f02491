"""A web server that Debian started with the package is named, with the command that stops it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from installer.cli.main import main
from installer.site import serve
from tests.demo import TREE


def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    """A `systemctl` that ends with this code and writes down its words."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "asked"


def test_a_running_one_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    asked = systemctl(tmp_path, monkeypatch, 0)
    serve.other_server(told.append)
    assert asked.read_text().split() == ["is-active", "--quiet", "nginx.service"]
    assert len(told) == 1 and "port 80" in told[0] and told[0].endswith("systemctl disable --now nginx")


@pytest.mark.parametrize("code", [1, 3, 4, 127])
def test_one_that_does_not_run_or_cannot_be_asked_about_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    told: list[str] = []
    assert systemctl(tmp_path, monkeypatch, code).parent == tmp_path
    serve.other_server(told.append)
    assert told == []


def test_the_readme_says_so_before_the_first_install() -> None:
    text = (TREE / "README.md").read_text()
    assert text.index("systemctl disable --now nginx") < text.index("appliance install -i site")


@pytest.mark.parametrize("words", [["preflight"], ["install", "--passphrase-file", "/nowhere"]])
def test_both_commands_that_need_the_port_say_so_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(serve, "other_server", lambda tell: tell("warning: another server"))
    with pytest.raises(SystemExit):
        main(
            [*words, "-i", str(TREE / "inventories/example"), "--depot", str(tmp_path / "depot"), "--release", "none-1"]
        )
    told = capsys.readouterr().err
    assert "warning: another server" in told and "error: " in told, "it went on to what is wrong with the call"
