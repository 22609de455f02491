"""The bench itself: what it compares and prints. No test measures time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import runtimes, table
from tests.bench.__main__ import GROUPS, main, program
from tests.bench.measure import Claim, Pair, compare
from tests.bench.wheels import _role_s_command

CLAIMS = [c for group in GROUPS.values() for c in group.CLAIMS]
DOCS = Path(__file__).resolve().parents[2] / "docs/benchmarks.md"


def test_sides_take_turns_and_the_medians_decide() -> None:
    turns: list[str] = []
    values = {"ours": iter([99.0, 1, 5, 2]), "baseline": iter([99.0, 2, 2, 2])}

    def side(name: str) -> float:
        turns.append(name)
        return next(values[name])

    line = compare(Claim("c", "s", "b", 1.0), Pair("c", lambda: side("ours"), lambda: side("baseline")), 3)
    assert turns == ["ours", "baseline"] * 4
    assert (line["value"], line["baseline_value"], line["ratio"], line["met"]) == (2, 2, 1, True)
    assert line["best_ratio"] == 0.5


@pytest.mark.parametrize(
    ("ours", "higher", "met"), [(0.9, False, True), (1.1, False, False), (0.9, True, False), (1.1, True, True)]
)
def test_a_target_bounds_from_above_or_from_below(ours: float, higher: bool, met: bool) -> None:
    line = compare(Claim("c", "s", "b", 1.0, higher), Pair("c", lambda: ours, lambda: 1.0), 5)
    assert line["met"] is met


def test_a_costly_pair_runs_fewer_rounds_and_never_more_than_asked() -> None:
    claim = Claim("c", "s", "b", 1.0)
    assert compare(claim, Pair("c", lambda: 1, lambda: 1, rounds=2), 5)["rounds"] == 2
    assert compare(claim, Pair("c", lambda: 1, lambda: 1, rounds=2), 1)["rounds"] == 1


def test_every_claim_has_a_name_of_its_own_and_a_row_in_the_documentation() -> None:
    names = [c.name for c in CLAIMS]
    assert len(names) == len(set(names))
    text = DOCS.read_text()
    for claim in CLAIMS:
        assert f"| {claim.name} |" in text, claim.name
        assert f"| {claim.target:g} |" in text


def test_the_list_measures_nothing_and_names_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    out = capsys.readouterr().out
    assert all(table.claim(c) in out for c in CLAIMS)
    main(["--list", "build"])
    assert "verify-2GiB" not in capsys.readouterr().out


def test_an_unknown_group_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2


@pytest.mark.parametrize("words", [["--only", "nosuchthing"], ["verify", "--only", "runtime-image"]])
def test_a_name_that_no_claim_has_is_a_usage_error_before_any_work(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--work", str(tmp_path / "work")])
    assert ended.value.code == 2
    assert f"nothing is called {words[-1]}" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_group_without_a_claim_of_that_name_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def pairs_of(name: str) -> Callable[[Path, str], Iterator[Pair]]:
        def pairs(_work: Path, _only: str) -> Iterator[Pair]:
            begun.append(name)
            yield from ()

        return pairs

    for name, group in GROUPS.items():
        monkeypatch.setattr(group, "pairs", pairs_of(name))
    main(["--only", "relay-against-star", "--work", str(tmp_path)])
    assert begun == ["relay"]


def test_a_reader_of_the_list_may_leave() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--list"],
        cwd=DOCS.parents[1],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_demo_that_was_never_locked_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    shutil.copy(DOCS.parents[1] / "bundles/demo.yml", tmp_path / "bundles")
    monkeypatch.setattr(runtimes, "TREE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "runtime-image", "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/bundles/demo.lock.yml: there is no lock\n       Run `appliance lock`")


def test_a_missed_target_stands_out_in_the_table() -> None:
    line = compare(Claim("c", "bytes/s", "b", 1.0, higher=True), Pair("c", lambda: 1e9, lambda: 4e9), 5)
    assert "| 1.00 GB/s | b: 4.00 GB/s | 0.25 | 0.25 | 1 | **no** | 5 |" in table.render(
        [json.loads(json.dumps(line)) | {"group": "g"}]
    )


def test_the_role_s_own_words_are_measured() -> None:
    names = ("uv", "wheels", "runtime", "requirements")
    argv = _role_s_command({f"appliance_vllm_{n}": f"/{n}" for n in names})
    assert argv[:3] == ["/uv", "pip", "install"]
    assert {"--require-hashes", "--no-index", "--offline"} <= set(argv)
    assert not any("{{" in word for word in argv)
