"""The port of dev-sec's profiles: each kind, containers, waivers, and that no control of theirs is passed over in silence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
import yaml

from installer.site.baseline import TABLE
from tests import devsec
from tests.judges import waived

CONTROLS = devsec.controls()
TODAY = date(2026, 11, 22)
# Every id of linux-baseline (master on 2026-09-15) and of the server's half of ssh-baseline (2.6.0).
THEIRS = {
    *(f"os-{n:02}" for n in range(1, 17) if n != 8), "os-03b", "os-05b",
    *(f"package-{n:02}" for n in range(1, 10) if n not in (4, 7)),
    *(f"sysctl-{n:02}" for n in range(1, 36) if n not in (18, 31)), "sysctl-31a", "sysctl-31b",
    *(f"sshd-{n:02}" for n in range(1, 50) if n != 26),
}  # fmt: skip
MACHINE: dict[str, Any] = {
    "container": "none", "efi": False, "ipv6": True, "readonly": [],
    "sysctl": {"net.a": "1", "kernel.a": "1", "net.ipv6.a": "1", "fs.dump": "2", "fs.place": "|/bin/a"},
    "sshd": {"port": ["22"], "ciphers": ["a,b"], "hostkey": ["/b", "/a"], "listenaddress": ["192.0.2.1:22"]},
    "ident": "SSH-2.0-OpenSSH_9.2p1", "commands": ["sshd: /usr/sbin/sshd -D"], "primes": 2047,
    "files": {"/a": {"type": "file", "owner": "root", "group": "shadow", "mode": "0640"}, "/b": None},
    "packages": ["auditd"], "settings": {"/c": {"KEY": "SUSPEND", "PATHS": "PATH=/bin:/usr/bin"}, "/d": None},
    "mounts": {"/data": ["rw", "nosuid"]}, "set_ids": ["/bin/su"], "modules": {"hfs": "/bin/false", "udf": "/sbin/x"},
    "processor": ["nx"], "empty": [], "full": ["x"],
}  # fmt: skip
GOOD: list[dict[str, Any]] = [
    {"sysctl": {"net.a": 1}}, {"sysctl": {"net.a": [0, 1], "kernel.a": 1}}, {"sysctl": {"fs.place": {"starts": ["/", "|/"]}}},
    {"sshd": {"Port": 22, "Ciphers": "a,b"}}, {"sshd": {"Port": {"any": ["22", "23"]}}}, {"sshd": {"HostKey": {"all": ["/a", "/b"]}}},
    {"sshd": {"ListenAddress": {"without": ["0.0.0.0:22"]}}}, {"ident": {"lacks": "Debian"}}, {"commands": {"lack": ["-oCiphers"]}},
    {"primes": {"least": 2047}}, {"files": [{"path": "/a", "type": "file", "owner": "root", "groups": ["shadow"], "least": "0640", "most": "0660"}]},
    {"files": [{"path": "/b", "absent": True}, {"path": "/b", "optional": True, "owner": "root"}]}, {"packages": {"absent": ["telnetd"], "present": ["auditd"]}},
    {"settings": {"/c": {"KEY": "suspend", "PATHS": {"has": "/bin:/usr/bin"}}}}, {"settings": {"/c": {"KEY": {"any": ["halt", "suspend"]}}}},
    {"mounts": {"nosuid": ["/data", "/home"]}}, {"set_ids": ["/bin/rsh"]}, {"modules": {"never": ["hfs"], "without_efi": []}},
    {"processor": ["nx"]}, {"none": ["empty"]},
]  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"sysctl": {"net.a": 0}}, {"sysctl": {"net.a": 1, "kernel.a": [2, 3]}}, {"sysctl": {"fs.place": {"starts": ["/"]}}},
    {"sshd": {"Port": 23}}, {"sshd": {"Ciphers": "a"}}, {"sshd": {"Banner": "none"}}, {"sshd": {"Port": {"any": ["23"]}}},
    {"sshd": {"HostKey": {"all": ["/a"]}}}, {"sshd": {"ListenAddress": {"without": ["192.0.2.1:22"]}}}, {"sshd": {"Nothing": {"without": ["a"]}}},
    {"ident": {"lacks": "OpenSSH"}}, {"commands": {"lack": ["-D"]}}, {"primes": {"least": 3071}}, {"files": [{"path": "/a", "type": "directory"}]},
    {"files": [{"path": "/a", "owner": "alice"}]}, {"files": [{"path": "/a", "groups": ["root"]}]}, {"files": [{"path": "/a", "most": "0600"}]},
    {"files": [{"path": "/a", "least": "0644"}]}, {"files": [{"path": "/a", "absent": True}]}, {"files": [{"path": "/b"}]},
    {"packages": {"absent": ["auditd"]}}, {"packages": {"present": ["rsyslog"]}}, {"settings": {"/c": {"KEY": "halt"}}},
    {"settings": {"/c": {"NONE": {"has": ""}}}}, {"settings": {"/d": {"KEY": 1}}}, {"mounts": {"noexec": ["/data"]}}, {"set_ids": ["/bin/su"]},
    {"modules": {"never": ["udf"], "without_efi": []}}, {"modules": {"never": [], "without_efi": ["vfat"]}}, {"processor": ["sse9"]},
    {"none": ["empty", "full"]}, {"packages": {"present": ["auditd"]}, "settings": {"/c": {"KEY": "halt"}}},
]  # fmt: skip


def result(want: Mapping[str, Any], **facts: Any) -> str:
    return devsec.find(MACHINE | facts, {"id": "a", "want": want}).result


@pytest.mark.parametrize("want", GOOD, ids=json.dumps)
def test_what_is_as_wanted_passes(want: dict[str, Any]) -> None:
    assert result(want) == "pass"


@pytest.mark.parametrize("want", BAD, ids=json.dumps)
def test_what_is_not_fails_and_says_why(want: dict[str, Any]) -> None:
    found = devsec.find(MACHINE, {"id": "a", "want": want})
    assert found.result == "fail" and found.words


def test_every_kind_of_the_table_is_tried_both_ways() -> None:
    used = {kind for c in CONTROLS for kind in c.get("want", {})}
    assert used == set(devsec.KINDS)
    assert all(used <= {kind for want in wants for kind in want} for wants in (GOOD, BAD))


def test_the_kernel_of_a_container_is_its_host_s_and_its_network_its_own() -> None:
    assert result({"sysctl": {"kernel.a": 0}}, container="systemd-nspawn") == "notapplicable"
    assert result({"sysctl": {"net.a": 0, "kernel.a": 1}}, container="systemd-nspawn") == "fail"
    assert result({"sysctl": {"net.a": 0}}, container="systemd-nspawn", readonly=["net.a"]) == "notapplicable"
    assert result({"sysctl": {"net.a": 0}}, readonly=["net.a"]) == "fail"
    nx = {"id": "a", "host": True, "want": {"processor": ["sse9"]}}
    assert devsec.find(MACHINE | {"container": "lxc"}, nx).result == "notapplicable"
    assert devsec.find(MACHINE, nx).result == "fail"


def test_what_is_not_there_is_not_judged_and_what_could_not_be_looked_at_has_failed() -> None:
    for want in ({"sshd": {"Port": 22}}, {"primes": {"least": 1}}):
        assert result(want, sshd=None) == "notapplicable"
    assert result({"ident": {"lacks": "a"}}, ident=None) == "notapplicable"
    assert result({"ident": {"lacks": "a"}}, ident="") == "fail"
    assert result({"commands": {"lack": ["a"]}}, commands=[]) == "notapplicable"
    assert result({"sshd": {"Port": 22}}, sshd={}) == "fail"
    assert result({"packages": {"absent": ["a"]}}, packages=[]) == "fail"
    assert result({"sysctl": {"net.ipv6.a": 0}}, ipv6=False) == "notapplicable"
    assert result({"sysctl": {"net.new": 0}}) == "error"
    assert result({"modules": {"never": [], "without_efi": ["vfat"]}}, efi=True) == "pass"


def test_a_control_may_hang_on_a_setting_or_not_apply_at_all() -> None:
    control = {"id": "a", "when": {"fs.dump": 2}, "want": {"sysctl": {"fs.place": "no"}}}
    assert devsec.find(MACHINE, control).result == "fail"
    assert devsec.find(MACHINE, control | {"when": {"fs.dump": 0}}).result == "notapplicable"
    never = devsec.find(MACHINE, {"id": "a", "applies": False, "reason": "Red Hat alone."})
    assert never == devsec.Finding("notapplicable", "Red Hat alone.")


def test_what_fails_is_waived_or_named() -> None:
    table = [{"id": f"{n}", "want": w} for n, w in enumerate([GOOD[0], BAD[0], BAD[1], {"sysctl": {"net.new": 0}}])]
    told = devsec.judge(MACHINE, table, {"0": "met", "1": "waived"})
    assert (told.unwaived, told.stale, told.good) == (["2", "3"], ["0"], False)
    assert told.counts == {"pass": 1, "fail": 2, "error": 1}
    assert devsec.judge(MACHINE, table[:2], {"1": "waived"}).good
    assert not devsec.judge(MACHINE, table[1:2], {"1": "waived"}).good, "nothing passed"


def test_the_waivers_end_name_controls_that_apply_and_no_other() -> None:
    text = devsec.WAIVERS.read_text()
    found = waived(text, TODAY)
    assert waived(text, date(2027, 11, 30)) and not waived(text, date(2027, 12, 1))
    assert set(found) <= {c["id"] for c in CONTROLS if c.get("applies", True)}
    # What is waived of OpenSCAP's ends on the same day, so that one look serves both.
    others = yaml.safe_load((devsec.WAIVERS.parent / "bp028-waivers.yml").read_text())
    assert others["expires"] == yaml.safe_load(text)["expires"]


def test_every_control_of_theirs_is_in_the_table_once() -> None:
    ids = [c["id"] for c in CONTROLS]
    assert len(ids) == len(set(ids)) and set(ids) == THEIRS
    for control in CONTROLS:
        assert control["title"]
        assert ("want" in control) != (control.get("applies") is False and len(control["reason"]) >= 20), control["id"]


def test_counterparts_are_controls_of_theirs_and_of_one_of_ours_alone() -> None:
    met = [i for c in yaml.safe_load(TABLE.read_text())["os_baseline_controls"] for i in c.get("devsec", [])]
    assert len(met) == len(set(met)) and set(met) <= THEIRS
    assert devsec.counterparts(["network-martians", "network-icmp"]) == {
        "sysctl-17": "network-martians", "sysctl-03": "network-icmp", "sysctl-04": "network-icmp",
    }  # fmt: skip


def test_the_program_for_nodes_runs_here_and_its_facts_can_be_judged() -> None:
    done = subprocess.run([sys.executable, "-I", "-"], input=devsec.program(CONTROLS), capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    facts = json.loads(done.stdout)
    assert "$y$" not in done.stdout and "$6$" not in done.stdout
    told = devsec.judge(facts, CONTROLS, {})
    assert "error" not in told.counts and told.counts["pass"] and sum(told.counts.values()) == len(CONTROLS)
