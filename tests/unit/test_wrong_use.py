"""A wrong command line ends with 2, and with --json in one document on standard output, as every other error does."""

from __future__ import annotations

import json

import pytest

import installer
from installer.cli.main import main


def ended(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(argv)
    return int(str(end.value.code or 0))


@pytest.mark.parametrize(
    ("argv", "what", "where"),
    [
        (["--json", "bogus"], "No such command 'bogus'", "appliance"),
        (["bogus", "--json"], "No such command 'bogus'", "appliance"),
        (["--json", "lock"], "Missing argument 'DEFINITION'", "appliance lock"),
        (["lock", "d.yml", "--bogus", "--json"], "No such option: --bogus", "appliance lock"),
        (["--json"], "Missing command", "appliance"),
        (["depot", "--json"], "Missing command", "appliance depot"),
    ],
)
def test_with_json_a_wrong_use_is_one_document(
    argv: list[str], what: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(argv) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {
        "what": what, "where": where, "remedy": f"`{where} --help` says what it takes.", "exit_code": 2,
    }  # fmt: skip
    assert err == ""


def test_an_interrupted_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("installer.explain.explain", interrupt)
    assert ended(["explain", "site"]) == 130
    told = capsys.readouterr()
    assert told.err == "Interrupted. The same command continues where it stopped.\n" and not told.out
    assert ended(["--json", "explain", "site"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_without_json_a_wrong_use_is_told_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["bogus"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: appliance" in err and "No such command 'bogus'" in err


@pytest.mark.parametrize("argv", [["--json", "--version"], ["--version", "--json"]])
def test_the_version_is_a_document_where_json_is_asked_for(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(argv) == 0
    assert json.loads(capsys.readouterr().out) == {"version": installer.__version__}


def test_the_version_is_a_line_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["--version"]) == 0
    assert capsys.readouterr().out == f"appliance {installer.__version__}\n"
