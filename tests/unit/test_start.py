"""What answers at once says exactly what the commands themselves would say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from installer.cli import light, start
from installer.cli.commands import COMMANDS
from installer.cli.main import main
from installer.cli.options import DEFAULT_DEPOT
from installer.cli.reference import top
from tests.bundles import make

HEAVY = {"typer", "rich", "tuf", "pydantic", "yaml", "cryptography", "urllib3"}


def full(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", start.WIDTHS)
def test_the_kept_help_is_up_to_date(width: int) -> None:
    assert Path(start.help_file(width)).read_text() == top(width), "run ./run docs"


@pytest.mark.parametrize("columns", ["", "0", "wide", "40", "80", "100", "110", "250"])
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_is_the_same_at_every_width_wherever_it_comes_from(
    asked: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    kept = start.ready([asked])
    assert kept in (None, full([asked], capsys))
    assert (kept is None) == (columns in ("40", "100"))


def test_the_version_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert start.ready(["--version"]) == full(["--version"], capsys)


@pytest.mark.parametrize("flags", [[], ["--json"], ["-q"], ["--quiet", "--json"]])
@pytest.mark.parametrize("releases", [[], ["a-1"], ["b-2", "a-1", ".a-3.importing", "\x1b[2Jc"]])
def test_a_light_command_says_what_the_full_one_says(
    flags: list[str], releases: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in releases:
        (tmp_path / "bundles" / name).mkdir(parents=True)
    argv = ["depot", "list", "--depot", str(tmp_path), *flags]
    assert light.answer(argv) == full(argv, capsys)
    assert light.answer([*flags, *argv]) == full([*flags, *argv], capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["depot"],
        ["depot", "list", "--help"],
        ["depot", "list", "--depot"],
        ["depot", "list", "--depot="],
        ["depot", "list", "--depot", "--help"],
        ["depot", "list", "--depot", "a/../b"],
        ["depot", "list", "--"],
        ["depot", "list", "more"],
        ["depot", "remove", "list"],
        ["verify", "depot", "list"],
    ],
)
def test_what_is_not_exactly_understood_is_left_to_the_full_command(argv: list[str]) -> None:
    assert start.ready(argv) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["verify", "b", "--root", "r"],
        ["verify", "--root", "r", "b", "--json"],
        ["--quiet", "verify", "--root", "r", "b"],
    ],
)
def test_a_plain_verify_starts_at_once(argv: list[str]) -> None:
    assert light.verify(argv) == ("b", "r")


@pytest.mark.parametrize(
    "argv",
    [
        ["verify", "b"],
        ["verify", "b", "--root"],
        ["verify", "b", "--root", "--depot"],
        ["verify", "--root", "r", "--help"],
        ["verify", "--root", "r", "--", "b"],
        ["verify", "b", "--root", ""],
        ["verify", "b", "--root=r"],
        ["verify", "b", "--root", "r", "--depot", "d"],
        ["inspect", "b", "--root", "r"],
    ],
)
def test_any_other_verify_is_left_to_the_full_command(argv: list[str]) -> None:
    assert light.verify(argv) is None


@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]])
@pytest.mark.parametrize("damage", ["none", "content", "extra", "metadata", "no bundle", "no root"])
def test_a_plain_verify_says_and_ends_like_the_full_one(
    damage: str,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    root = tmp_path / "root.json"
    if damage != "no root":
        root.write_bytes(bundle.root)
    match damage:
        case "content":
            (bundle.path / "content/files/a").write_bytes(b"b")
        case "extra":
            (bundle.path / "content/more").write_bytes(b"b")
        case "metadata":
            (bundle.path / "metadata/targets.json").write_bytes(b"{}")
        case "no bundle":
            shutil.rmtree(bundle.path / "metadata")
    argv = ["verify", str(bundle.path), "--root", str(root), *flags]
    ends = []
    for run in (start.main, main):
        monkeypatch.setattr(sys, "argv", ["appliance", *argv])
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capsys.readouterr()
        ends.append((ended.value.code, out, re.sub(r"[0-9.]+ s", "T s", err)))
    assert ends[0] == ends[1]
    assert ends[0][0] == {"none": 0, "no bundle": 2, "no root": 2}.get(damage, 3)


def test_a_depot_that_cannot_be_read_is_left_to_the_full_command() -> None:
    assert light.answer(["depot", "list", "--depot", "/" + "x" * 5000]) is None


def test_the_light_depot_is_the_default_one() -> None:
    assert str(DEFAULT_DEPOT) == light.DEPOT


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["depot", "list"], ["depot", "list", "--json"]])
def test_nothing_heavy_is_imported_for_a_light_answer(argv: list[str]) -> None:
    script = (
        "import sys; from installer.cli import start; assert start.ready(sys.argv[1:]); print(' '.join(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, *argv],
        env={"COLUMNS": "80"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not HEAVY & set(out.split())


@pytest.mark.parametrize("name", ["verify", "certs", "lab"])
def test_a_command_imports_no_other_command_s_module(name: str) -> None:
    script = (
        "import sys; from installer.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print('modules', *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script, name, "--help"], capture_output=True, text=True, check=True)
    modules = {m.removeprefix("installer.cli.") for m in out.stdout.split() if m.startswith("installer.cli.")}
    own = {target.partition(":")[0] for target in COMMANDS.values()}
    assert modules & own <= {COMMANDS[name].partition(":")[0], "compat"}, modules & own


@pytest.mark.parametrize(
    ("argv", "inventory"),
    [
        (["install", "-i", "site", "bundle"], "site"),
        (["--json", "status", "--inventory=site"], "site"),
        (["plan", "bundle", "--inventory", "site", "-q"], "site"),
        (["install", "-i"], ""),
        (["install", "--help", "-i", "site"], ""),
        (["status", "--offline", "-i", "site"], ""),
        (["depot", "list", "-i", "site"], ""),
        ([], ""),
    ],
)
def test_the_inventory_is_known_before_the_command_line_is_built(argv: list[str], inventory: str) -> None:
    assert light.inventory(argv) == inventory
