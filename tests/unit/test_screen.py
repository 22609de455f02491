"""What a hostile name can do to the words on a terminal: nothing."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from engine.report import printable
from installer.cli.main import main
from installer.cli.screen import Screen, seconds
from tests.bundles import make

HOSTILE = ["[bold]x[/bold]", "[/nothing]", "a\x1b[2J\x1b[1;1Hgood", "a\rgood", "a\u202egood", "a\u009b31m", "ok\x07"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_extra_file_s_name_is_shown_and_steers_nothing(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    (bundle.path / "content/files" / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle.path / "content/files" / name).write_bytes(b"x")
    (tmp_path / "root.json").write_bytes(bundle.root)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle.path), "--root", str(tmp_path / "root.json")])
    assert ended.value.code == 3
    out = capfd.readouterr().out
    assert not set(out) & set("\x1b\r\x07\u202e\u009b")
    assert printable(f"content/files/{name}") in out.replace("\n", "")


def test_a_name_that_is_no_text_gets_into_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    (bundle.path / "content/files/\udcff\udcfe").write_bytes(b"x")
    (tmp_path / "root.json").write_bytes(bundle.root)
    with pytest.raises(SystemExit):
        main(["verify", str(bundle.path), "--root", str(tmp_path / "root.json"), "--json"])
    assert len(json.loads(capfd.readouterr().out)["findings"]) == 1


@pytest.mark.parametrize("name", ["\udcff", "\x00", "\x7f", "\u2028"])
def test_what_is_printable_can_be_printed(name: str) -> None:
    assert printable(name).isascii()


class Terminal(io.StringIO):
    """A terminal that keeps what is drawn."""

    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error as a terminal; for a test's own body, because pytest sets the stream again after the fixtures."""
    drawn = Terminal()
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return drawn


def test_a_node_s_bar_tells_its_step_and_the_whole_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with Screen() as screen:
        screen.whole("install", 43.4)
        screen.node("node-1", "Look for Python")
        screen.node("node-1", "vLLM services: Start", 4, 12)
    assert "node-1  vLLM services: Start" in terminal.getvalue() and "4 of 12" in terminal.getvalue()
    assert "0 s, last time: 43 s" in terminal.getvalue()
    assert "?" not in re.sub(r"\x1b\[\?[0-9]+[hl]", "", terminal.getvalue())


def test_a_bar_of_bytes_tells_bytes_and_one_of_unknown_length_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with Screen() as screen:
        screen.begin("import", 2_000_000)
        screen.advance("import", 500_000)
        screen.begin("resolve")
    assert "500.0 kB of 2.0 MB" in terminal.getvalue() and re.search(r"resolve[^\n]* 0 s", terminal.getvalue())
    assert "?" not in re.sub(r"\x1b\[\?[0-9]+[hl]", "", terminal.getvalue())


def test_without_a_terminal_no_bar_and_no_last_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.whole("install", 43.4)
        screen.node("node-1", "vLLM services: Start", 4, 12)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("n_s", "told"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")]
)
def test_durations_are_told_in_two_units_at_most(n_s: float, told: str) -> None:
    assert seconds(n_s) == told
