"""How a scan is judged beside the file of waivers, and that nothing of the two other lists is passed over in silence."""

from __future__ import annotations

from datetime import date

import pytest
import yaml

from installer.site.baseline import TABLE
from tests.openscap import WAIVERS, judge, results, waived

TODAY = date(2026, 11, 22)
SCAN = """\
Title   One
Rule    xccdf_org.ssgproject.content_rule_sudo_add_noexec
Ident   CCE-1
Result  fail

Title   Two
Rule    xccdf_org.ssgproject.content_rule_package_aide_installed
Result  pass

Title   Three
Rule    xccdf_org.ssgproject.content_rule_new_rule
Result  error
"""
# Of dev-sec's linux-baseline (sysctl at 00d24ba, os and package at 03b88ee) and ssh-baseline (sshd at 0932d5f), by id; later ids are not looked at.
DEVSEC = {
    *(f"os-{n:02}" for n in range(1, 11)), "os-05b",
    *(f"package-{n:02}" for n in range(1, 11) if n != 4),
    *(f"sysctl-{n:02}" for n in range(1, 35) if n not in (18, 31)), "sysctl-31a", "sysctl-31b",
    *(f"sshd-{n:02}" for n in range(1, 49) if n != 26),
}  # fmt: skip


def test_what_fails_is_waived_or_named_and_a_rule_that_could_not_look_has_failed() -> None:
    found = results(SCAN)
    assert found == {"sudo_add_noexec": "fail", "package_aide_installed": "pass", "new_rule": "error"}
    told = judge(found, waived(WAIVERS.read_text(), TODAY))
    assert told.unwaived == ["new_rule"]
    assert told.stale == ["package_aide_installed"]
    assert told.counts == {"fail": 1, "pass": 1, "error": 1}


def test_waivers_end_on_their_day() -> None:
    text = WAIVERS.read_text()
    assert waived(text, date(2027, 11, 30)) and not waived(text, date(2027, 12, 1))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"rules": ["a"], "reason": "too short"}], "is no reason"),
        ([{"rules": ["a", "a"], "reason": "A reason that says what is there instead."}], "waived twice"),
    ],
)
def test_a_waiver_without_a_reason_or_given_twice_is_refused(entries: list[dict[str, object]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        waived(yaml.safe_dump({"expires": TODAY, "waivers": entries}), TODAY)


def test_every_control_of_dev_sec_has_a_counterpart_or_a_reason() -> None:
    document = yaml.safe_load(TABLE.read_text())
    met = [i for c in document["os_baseline_controls"] for i in c.get("devsec", [])]
    left = [i for entry in document["os_baseline_devsec_left"] for i in entry["ids"]]
    assert len(met) == len(set(met)) and not set(met) & set(left)
    assert {*met, *left} == DEVSEC
    assert all(len(entry["why"]) >= 10 for entry in document["os_baseline_devsec_left"])
