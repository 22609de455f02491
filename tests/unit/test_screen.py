"""What a hostile name can do to the words on a terminal: nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.report import printable
from installer.cli.main import main
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
