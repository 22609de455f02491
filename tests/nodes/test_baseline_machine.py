"""The hardening baseline where a container cannot tell: a kernel that takes audit rules, AppArmor in force, a /tmp that nobody mounted yet.

Every control but those is left out, because a task takes seconds here; the Molecule scenario has them all.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest import image
from tests.guest.converge import ENGINE, bring_engine, converge
from tests.guest.machine import Guest

CONTROLS = ["audit-daemon", "audit-privileges", "files-shared-memory", "files-tmp", "kernel-apparmor", "kernel-secrets",
            "time-sources"]  # fmt: skip
# Installed already: the role then has nothing to fetch.
PACKAGES = ("apparmor", "auditd", "chrony", "python3-apt", "sudo")
SITE = {"appliance_os_baseline_level": 0, "appliance_os_baseline_enable": CONTROLS,
        "appliance_os_baseline_time_servers": ["10.0.2.2"], "appliance_os_baseline_confirm_timeout_s": 120}  # fmt: skip


def verdicts(guest: Guest) -> dict[str, str]:
    said = json.loads(guest.ssh(f"{ENGINE}/engine/bin/python -P -m engine.cli baseline --json", ok=(0, 1)))
    return {c["control"]: c["result"] for c in said["controls"]}


@pytest.mark.nodes
@pytest.mark.slow
def test_a_machine_takes_the_baseline_while_it_runs_and_the_rest_with_its_next_start(tmp_path: Path) -> None:
    guest = Guest(image.ensure(*PACKAGES), tmp_path / "guest", audit=True)
    with guest.running():
        bring_engine(guest, tmp_path)
        guest.ssh("echo before > /tmp/of-somebody")
        converge(guest, tmp_path, "os_baseline", SITE, timeout_s=1400)

        # chronyd was restarted, with a /tmp of its own; nobody else's /tmp moved.
        assert guest.ssh("cat /tmp/of-somebody") == "before\n"
        found = verdicts(guest)
        assert found.pop("files-tmp") == "fail", "it waits for a start"
        assert set(found.values()) == {"pass"}, found
        guest.ssh("usermod --comment moved nobody")
        assert "etc/passwd" in guest.ssh("ausearch --input-logs --key accounts --raw"), (
            "a change of accounts leaves a record"
        )
    with guest.running():
        assert set(verdicts(guest).values()) == {"pass"}
        assert "tmpfs" in guest.ssh("findmnt --noheadings /tmp")
