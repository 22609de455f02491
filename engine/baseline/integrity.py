"""Files that changed since somebody took them as they are: AIDE's record, and its last look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.baseline.outcome import Outcome, fail, of_faults, passed
from engine.baseline.services import show, units

CONFIG, RECORD = Path("/etc/aide/aide.conf"), Path("/var/lib/aide/aide.db.gz")
LOOK, TIMER = "appliance-integrity.service", "appliance-integrity.timer"


def integrity(_: Mapping[str, Any]) -> Outcome:
    """There are settings and a record that root alone can read, and a timer that compares."""
    faults = []
    for file in (CONFIG, RECORD):
        if not file.exists():
            faults.append(f"{file} is not there")
        elif file.stat().st_mode & 0o077 or file.stat().st_uid != 0:
            faults.append(f"{file} is not root's alone")
    timer = units({"on": [TIMER]})
    if timer.result == "fail":
        faults.append(timer.observed)
    return of_faults(faults, f"record of {_day(RECORD.stat().st_mtime) if RECORD.exists() else 'never'}; {timer.observed}")  # fmt: skip


def unchanged(_: Mapping[str, Any]) -> Outcome:
    """The last comparison found nothing, or there was none since the record was made."""
    state = show(LOOK, "Result", "ExecMainExitTimestampMonotonic", "ExecMainStatus")
    ended = int(state["ExecMainExitTimestampMonotonic"] or 0) / 1e6
    made = RECORD.stat().st_mtime
    at = time.time() - time.monotonic() + ended
    if not ended or at < made:
        return passed(f"not compared since the record of {_day(made)}")
    if state["Result"] == "success":
        return passed(f"as recorded, on {_day(at)}")
    return fail(f"the look of {_day(at)} ended with {state['ExecMainStatus']}: journalctl --unit={LOOK}", "no changes")


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%MZ")


CHECKS = {"integrity": integrity, "unchanged": unchanged}
