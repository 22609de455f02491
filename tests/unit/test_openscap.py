"""How a scan is judged beside the file of waivers."""

from __future__ import annotations

from datetime import date

import pytest
import yaml

from tests.judges import judge, waived
from tests.openscap import WAIVERS, results

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
