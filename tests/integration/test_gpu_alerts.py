"""The alerts for GPU faults, by Prometheus' own tool, and the list of counters that they live on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
FILES = TREE / "roles/dcgm_exporter/files"
CASES = TREE / "tests/rules/gpu-alerts.test.yml"


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)


def rows(name: str) -> list[list[str]]:
    lines = (FILES / name).read_text().splitlines()
    return [[c.strip() for c in line.split(",")] for line in lines if line and not line.startswith("#")]


def test_the_rules_are_sound_and_every_alert_is_raised_by_its_fault_and_by_nothing_else() -> None:
    checked = promtool("check", "rules", FILES / "gpu-alerts.yml")
    assert checked.returncode == 0, checked.stderr
    tested = promtool("test", "rules", CASES)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_among_the_cases_twice() -> None:
    alerts = re.findall(r"- alert: (\w+)", (FILES / "gpu-alerts.yml").read_text())
    cases = re.findall(r"alertname: (\w+)", CASES.read_text())
    assert alerts and sorted(cases) == sorted(alerts * 2)


@pytest.mark.parametrize(("was", "is_now"), [("> 0\n        labels: {severity: page}", "> 9\n        labels: {severity: page}"), ("/ 64) % 2", "/ 1) % 2")])  # fmt: skip
def test_a_wrong_rule_fails_the_cases(tmp_path: Path, was: str, is_now: str) -> None:
    text = (FILES / "gpu-alerts.yml").read_text()
    assert was in text
    (tmp_path / "rules.yml").write_text(text.replace(was, is_now))
    (tmp_path / "cases.yml").write_text(
        CASES.read_text().replace("../../roles/dcgm_exporter/files/gpu-alerts.yml", "rules.yml")
    )
    assert promtool("test", "rules", tmp_path / "cases.yml").returncode != 0


def test_every_metric_of_an_alert_is_counted_and_every_alert_is_documented() -> None:
    text = (FILES / "gpu-alerts.yml").read_text()
    used = set(re.findall(r"DCGM_\w+", text))
    assert used and used <= {row[0] for row in rows("counters.csv")}
    documented = (TREE / "docs/gpu-metrics.md").read_text()
    assert all(f"`{alert}`" in documented for alert in re.findall(r"- alert: (\w+)", text))


def test_the_lists_have_the_form_that_the_exporter_reads() -> None:
    found = [*rows("counters.csv"), *rows("profiling.csv")]
    assert [r for r in found if len(r) != 3] == []  # a comma in the help would be a fourth column
    assert {r[1] for r in found} == {"gauge", "counter", "label"}
    assert len({r[0] for r in found}) == len(found)
    assert all(re.fullmatch(r"DCGM_(FI_(DEV|PROF)|EXP)_[A-Z0-9_]+|DCGM_FI_DRIVER_VERSION", r[0]) for r in found)
