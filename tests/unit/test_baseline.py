"""The hardening baseline: its table, waivers, and how what is seen becomes a verdict."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from engine.baseline import accounts, files, integrity, judge, kernel, policy, services, ssh, sudo
from engine.baseline.outcome import FAIL, NOT_APPLICABLE, PASS, WAIVED, passed
from engine.baseline.policy import Control, Policy, Waiver
from engine.errors import InputError
from installer.site.baseline import TABLE, page
from installer.site.settings import Baseline, Site

ROLE = Path(__file__).parents[2] / "roles/os_baseline"
CONTROLS: list[dict[str, Any]] = yaml.safe_load((ROLE / "vars/main.yml").read_text())["os_baseline_controls"]
TODAY = date(2026, 11, 21)
GOOD = {
    "control": "ssh-root",
    "reason": "The rescue console of this rack logs in as root.",
    "expires": "2027-01-31",
    "reviewer": "carol",
}

sys.path.insert(0, str(ROLE / "filter_plugins"))
import os_baseline as filters  # type: ignore[import-not-found]  # noqa: E402  # a plug-in of a role, not a package


def faults(*entries: Any) -> list[str]:
    return policy.waiver_faults(list(entries), {c["id"] for c in CONTROLS}, TODAY)


# --- the table


def test_every_control_has_an_id_of_its_own_and_a_check_that_the_engine_has() -> None:
    ids = [c["id"] for c in CONTROLS]
    assert len(set(ids)) == len(ids)
    for control in CONTROLS:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", control["id"]), control["id"]
        assert control["check"] in judge.CHECKS, control["id"]
        assert control.get("level", 1) in (1, 2)
        assert control["title"] and not control["title"].endswith(".")
        assert isinstance(control["want"], dict)


def test_every_control_says_what_it_maps_to_by_id_alone() -> None:
    for control in CONTROLS:
        assert all(re.fullmatch(r"\d(\.\d{1,2}){1,4}", i) for i in control["cis"]), control["id"]
        assert all(re.fullmatch(r"R\d{1,2}", i) for i in control["anssi"]), control["id"]
        assert set(control["nsa"]) <= {"harden", "networks", "access", "logging", "patching"}, control["id"]


def test_what_costs_something_says_what() -> None:
    assert [c["id"] for c in CONTROLS if c.get("level", 1) == 2 and not c.get("why")] == []
    assert [c["id"] for c in CONTROLS if c.get("enforced") is False and not c.get("why")] == []


def test_the_runtime_s_own_file_systems_stay_allowed() -> None:
    refused = {m for c in CONTROLS if c["check"] == "modules" for m in c["want"]["modules"]}
    assert not refused & {"squashfs", "overlay", "loop", "nvidia", "nvidia-uvm", "ib_core", "mlx5_core", "vfat"}


def test_the_page_is_in_step_with_the_table() -> None:
    assert (ROLE.parents[1] / "docs/baseline.md").read_text() == page(), "run ./run docs"
    assert TABLE == ROLE / "vars/main.yml"


# --- selection


def test_level_and_switches_choose() -> None:
    table = [
        {"id": "a-a"},
        {"id": "b-b", "level": 2},
        {"id": "c-c", "default": False},
        {"id": "d-d", "level": 2, "default": False},
    ]
    assert [c["id"] for c in filters.os_baseline_selected(table, 1, [])] == ["a-a"]
    assert [c["id"] for c in filters.os_baseline_selected(table, 2, [])] == ["a-a", "b-b"]
    assert [c["id"] for c in filters.os_baseline_selected(table, 1, ["d-d"])] == ["a-a", "d-d"]


def test_a_waived_control_is_not_applied_but_reaches_the_node() -> None:
    chosen = filters.os_baseline_selected(CONTROLS, 1, [])
    active = {c["id"] for c in filters.os_baseline_active(chosen, [GOOD])}
    assert "ssh-root" not in active and "ssh-groups" in active
    written = filters.os_baseline_policy(chosen, [GOOD])
    found = policy.parse(json.loads(json.dumps(written)))
    assert found.waivers["ssh-root"].expires == date(2027, 1, 31)
    assert "ssh-root" in {c.id for c in found.controls}


# --- waivers


def test_a_reviewed_waiver_is_taken() -> None:
    assert faults(GOOD) == []
    assert faults({**GOOD, "expires": date(2027, 1, 31)}) == []
    assert faults({**GOOD, "expires": TODAY.isoformat()}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires": "2026-11-20"}, "expired on 2026-11-20"),
        ({"expires": (TODAY + timedelta(days=401)).isoformat()}, "400 days are the most"),
        ({"expires": "soon"}, "has no expiry date"),
        ({"expires": "2026-02-30"}, "has no expiry date"),
        ({"expires": None}, "has no expiry date"),
        ({"control": "ssh-rot"}, "names no control"),
        ({"reason": "because"}, "no reason of at least 20 characters"),
        ({"reason": "                         "}, "no reason of at least 20 characters"),
        ({"reviewer": " "}, "names no reviewer"),
        ({"until": "2030-01-01"}, "has until"),
    ],
)
def test_a_waiver_that_nobody_could_review_is_refused(change: dict[str, Any], words: str) -> None:
    said = faults({**GOOD, **change})
    assert len(said) == 1 and words in said[0]


def test_waivers_that_are_no_waivers_are_refused() -> None:
    assert "no list" in policy.waiver_faults({"ssh-root": "never"}, {"ssh-root"}, TODAY)[0]
    assert "no mapping" in faults("ssh-root")[0]
    assert "waived twice" in faults(GOOD, GOOD)[0]


def test_a_waiver_counts_until_its_day_and_then_the_control_fails_with_it() -> None:
    control = Control("a-a", "t", "sysctl", {"kernel.not_there": 1})
    waiver = Waiver("a-a", "reason", TODAY, "carol")
    assert [v.result for v in judge.judge(Policy((control,), {"a-a": waiver}), TODAY)] == [WAIVED]
    wrong = Control("a-a", "t", "contents", {"files": {"/nowhere": {}}})
    (late,) = judge.judge(Policy((wrong,), {"a-a": waiver}), TODAY + timedelta(days=1))
    assert late.result == FAIL and "expired on 2026-11-21" in late.observed


# --- the policy file


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "controls": [{}], "waivers": []}', '{"schema": 1, "schema": 1}'],
)
def test_a_file_that_is_no_policy_is_a_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(InputError, match="no baseline"):
        policy.load(file)


def test_a_check_that_cannot_look_has_not_passed() -> None:
    assert judge.look(Control("a-a", "t", "unheard-of", {})).result == FAIL
    assert judge.look(Control("a-a", "t", "modes", {})).result == FAIL


# --- checks


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel, "PROC_SYS", tmp_path)
    (tmp_path / "net").mkdir()
    return tmp_path / "net"


def test_settings_of_the_kernel_are_compared(proc: Path) -> None:
    (proc / "a").write_text("1\n")
    assert kernel.sysctl({"net.a": 1}).result == PASS
    assert kernel.sysctl({"net.a": [2, 1]}).result == PASS
    assert kernel.sysctl({"net.a": 0}).result == FAIL
    assert kernel.sysctl({"net.gone": 0}).result == NOT_APPLICABLE
    assert kernel.sysctl({"net.a": 1, "net.gone": 0}).result == PASS


def test_a_setting_that_belongs_to_the_host_is_named_and_not_held_against_the_node(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (proc / "a").write_text("1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    said = kernel.sysctl({"net.a": 0})
    assert said.result == NOT_APPLICABLE and "net.a=1 belongs to the host's kernel" in said.observed


def test_audit_rules_are_compared_as_auditctl_spells_them() -> None:
    asked = "-a always,exit -F arch=b64 -S mount,umount2 -F auid>=1000 -F auid!=unset -k mounts"
    listed = "-a always,exit -F arch=b64 -S umount2,mount -F auid>=1000 -F auid!=-1 -F key=mounts"
    assert kernel.canonical(asked) == kernel.canonical(listed)
    assert kernel.canonical("-w /etc/ssh -p wa -k sshd") == kernel.canonical("-w /etc/ssh/ -p wa -k sshd")
    assert kernel.canonical(asked) != kernel.canonical(asked.replace("mount,", ""))
    program = "-a always,exit -F path=/usr/bin/sudo -F perm=x -k privileged"
    assert kernel.canonical(program) == kernel.canonical(
        "-a always,exit -S all -F path=/usr/bin/sudo -F perm=x -F key=privileged"
    )


def test_options_of_sshd_are_compared() -> None:
    found = ssh.effective("ciphers a,b\nallowgroups x\nallowgroups y\nmaxauthtries 3\nlogingracetime 0\n")
    assert found["allowgroups"] == ["x", "y"]
    assert ssh._faults("Ciphers", found["ciphers"], {"within": ["a"]}) == ["Ciphers lets in b"]
    assert ssh._faults("Ciphers", found["ciphers"], {"within": ["a", "b", "c"]}) == []
    assert ssh._faults("AllowGroups", found["allowgroups"], {"equals": ["x"]}) != []
    assert ssh._faults("MaxAuthTries", found["maxauthtries"], {"most": 3}) == []
    assert ssh._faults("LoginGraceTime", found["logingracetime"], {"most": 30}) != [], "0 means for ever"
    assert ssh._faults("Banner", [], {"equals": "x"}) == ["Banner is not set"]


def test_whoever_needs_no_password_for_sudo_is_found_however_it_is_written() -> None:
    document: dict[str, Any] = {
        "Defaults": [
            {"Options": [{"use_pty": True}]},
            {"Binding": [{"username": "dave"}], "Options": [{"authenticate": False}]},
        ],
        "User_Specs": [
            {
                "User_List": [{"usergroup": "ops"}],
                "Cmnd_Specs": [{"Options": [{"authenticate": False}], "Commands": []}],
            },
            {"User_List": [{"username": "bob"}], "Cmnd_Specs": [{"Commands": []}]},
        ],
    }
    assert sorted(sudo.without_password(document)) == ["%ops", "dave"]
    document["Defaults"].append({"Options": [{"authenticate": False}]})
    assert "everybody" in list(sudo.without_password(document))
    assert sudo.defaults(document)["use_pty"] is True


@pytest.fixture
def accounts_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(passwd: str, shadow: str) -> None:
        monkeypatch.setattr(accounts, "PASSWD", tmp_path / "passwd")
        monkeypatch.setattr(accounts, "SHADOW", tmp_path / "shadow")
        (tmp_path / "passwd").write_text(passwd)
        (tmp_path / "shadow").write_text(shadow)

    return make


def test_accounts_are_judged(accounts_of: Any) -> None:
    accounts_of(
        "root:x:0:0::/root:/bin/bash\ndb:x:120:120::/:/bin/sh\neve:x:0:0::/:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/bash\n",
        "root:$y$x:1:0:99999:7:::\ndb:!:1::::::\neve:*:1::::::\nbob::1:0:99999:7:::\n",
    )
    assert "eve has the number 0" in accounts.root_account({}).observed
    assert "the password of root is not locked" in accounts.root_account({}).observed
    assert accounts.system_accounts({}).observed.startswith("db has the shell /bin/sh")
    assert "db" not in accounts.system_accounts({"kept": ["db"]}).observed
    assert accounts.empty_passwords({}).observed == "bob has an empty password"
    assert "root may keep its password for 99999 days" in accounts.ageing({"most_days": 365}).observed


def test_a_hash_that_stands_in_passwd_counts_and_is_found(accounts_of: Any) -> None:
    """pam_unix takes it, whatever shadow says of the account."""
    accounts_of(
        "root:$6$a$b:0:0::/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/bash\nann:x:1001:1001::/:/bin/sh\neve::1002:1002::/:/bin/sh\n",
        "root:!:1:0:99999:7:::\nbob:$y$x:1:0:99999:7:::\neve:$y$x:1::::::\n",
    )
    assert "the password of root is not locked" in accounts.root_account({}).observed
    said = accounts.empty_passwords({}).observed
    assert (
        said == "eve has an empty password; the password of root is not in shadow; the password of ann is not in shadow"
    )


def test_modes_are_judged(tmp_path: Path) -> None:
    file = tmp_path / "shadow"
    file.write_text("")
    file.chmod(0o644)
    want = {"path": str(file), "mode": "0640", "groups": ["root"], "owner": "root"}
    assert "mode 0644" in files.modes({"files": [want]}).observed
    file.chmod(0o600)
    assert "mode" not in files.modes({"files": [want]}).observed
    assert "is there" in files.modes({"files": [{**want, "absent": True}]}).observed
    assert (
        "is not there"
        in files.modes({"files": [{"path": str(tmp_path / "no"), "mode": "0", "required": True}]}).observed
    )


def test_one_walk_finds_what_everybody_may_write_and_what_nobody_owns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "id").write_text("")
    (tmp_path / "id").chmod(0o4755)
    (tmp_path / "link").symlink_to("id")
    monkeypatch.setattr(
        files, "_walk", lambda skip: ((e.path, e.stat(follow_symlinks=False)) for e in os.scandir(tmp_path))
    )
    monkeypatch.setattr(files, "_packaged", lambda path: False)
    files.scan.cache_clear()
    assert files.world_writable({}).observed == f"{tmp_path}/open can be written by everybody"
    assert files.set_ids({}).observed == f"{tmp_path}/id is from no package"
    assert files.set_ids({"known": [f"{tmp_path}/id"]}).result == PASS
    monkeypatch.setattr(pwd, "getpwall", list)
    files.scan.cache_clear()
    assert f"{tmp_path}/id (0:0) belongs to nobody" in files.unowned({}).observed


def test_mounts_are_judged_by_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("1 0 0:1 / /srv rw,nosuid,nodev - tmpfs t rw\n2 1 0:2 / /srv rw,nosuid - tmpfs t rw\n")
    monkeypatch.setattr(files, "MOUNTS", table)
    assert files.mounts({"mounts": {"/srv": ["nosuid"]}}).result == PASS
    assert files.mounts({"mounts": {"/srv": ["nosuid", "nodev"]}}).observed == "/srv without nodev"
    assert files.mounts({"mounts": {"/var": []}}).observed == "/var is no file system of its own"


def test_homes_are_judged_and_those_of_the_system_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mode in (("alice", 0o755), ("bob", 0o750), ("db", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    table = tmp_path / "passwd"
    numbers = {"alice": 1000, "bob": 1001, "db": 120, "gone": 1002}
    table.write_text("".join(f"{n}:x:{u}:{u}::{tmp_path}/{n}:/bin/bash\n" for n, u in numbers.items()))
    monkeypatch.setattr(accounts, "PASSWD", table)
    said = accounts.homes({"mode": "0750"})
    assert said.observed == f"{tmp_path}/alice of alice has mode 0755, at most 0750"
    (tmp_path / "alice").chmod(0o700)
    assert accounts.homes({"mode": "0750"}).observed == "2 homes"


def test_a_place_is_mounted_over_itself_unless_it_is_a_file_system_of_somebody_s() -> None:
    wanted = [{"key": "/home", "value": ["nodev"]}, {"key": "/var/log", "value": ["nodev"]}, {"key": "/srv/x", "value": []}]  # fmt: skip
    mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/sda2 /home ext4 rw 0 0\n/dev/sda1 /var/log ext4 rw 0 0\n"
    units = ["/etc/systemd/system/var-log.mount", "/etc/systemd/system/srv.mount"]
    said = filters.os_baseline_self_mounts(wanted, mounts, units)
    assert [(e["place"], e["unit"]) for e in said] == [("/var/log", "var-log.mount"), ("/srv/x", "srv-x.mount")]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AIDE's settings and record, and a timer that runs."""
    for name in ("CONFIG", "RECORD"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
        monkeypatch.setattr(integrity, name, tmp_path / name)
    monkeypatch.setattr(integrity, "units", lambda want: passed("timer active"))
    return tmp_path / "RECORD"


def test_a_record_of_files_is_root_s_alone(record: Path) -> None:
    assert integrity.integrity({}).result == PASS
    record.chmod(0o644)
    assert integrity.integrity({}).observed == f"{record} is not root's alone"
    record.unlink()
    assert "is not there" in integrity.integrity({}).observed


@pytest.mark.parametrize(
    ("ended_s_ago", "result", "verdict", "words"),
    [
        (None, "success", PASS, "not compared"),
        (3600, "exit-code", PASS, "not compared"),  # before the record was made
        (10, "success", PASS, "as recorded"),
        (10, "exit-code", FAIL, "ended with 5"),
    ],
)
def test_a_comparison_counts_against_the_record_of_then(
    record: Path, monkeypatch: pytest.MonkeyPatch, ended_s_ago: int | None, result: str, verdict: str, words: str
) -> None:
    os.utime(record, (time.time() - 60, time.time() - 60))
    ended = 0 if ended_s_ago is None else int((time.monotonic() - ended_s_ago) * 1e6)
    state = {"Result": result, "ExecMainExitTimestampMonotonic": str(ended), "ExecMainStatus": "5"}
    monkeypatch.setattr(integrity, "show", lambda unit, *properties: state)
    said = integrity.unchanged({})
    assert said.result == verdict and words in said.observed


def test_sizes_are_read_as_systemd_writes_them() -> None:
    assert services._bytes("1G") == 1 << 30 and services._bytes("512") == 512
    with pytest.raises(ValueError, match="no size"):
        services._bytes("lots")


# --- the role's variables


def test_variables_of_the_role_are_judged() -> None:
    given: dict[str, Any] = {
        "enable": [], "admins": [], "root_login": "prohibit-password", "time_servers": ["192.0.2.5"], "journal_max": "1G",
        "journal_keep_free": "2G", "log_host": "", "banner": "For authorised users.", "confirm_timeout_s": 60,
    }  # fmt: skip
    alice = {"name": "alice", "keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA alice"]}

    def said(**change: Any) -> list[str]:
        found: list[str] = filters.os_baseline_faults({**given, **change}, CONTROLS)
        return found

    assert said() == [] and said(admins=[alice], root_login="no") == []
    assert "name an admin with sudo" in said(root_login="no")[0]
    assert "name an admin with sudo" in said(root_login="no", admins=[{**alice, "sudo": "none"}])[0]
    assert "ssh-rot, which is not a control" in said(enable=["ssh-rot"])[0]
    assert "not root" in said(admins=[{**alice, "name": "root"}])[0]
    assert "public key" in said(admins=[{**alice, "keys": ['command="x" ssh-ed25519 AAAA']}])[0]
    assert "could not log in" in said(admins=[{**alice, "keys": []}])[0]
    assert "crypt hash" in said(admins=[{**alice, "password": "hunter2"}])[0]
    assert "twice" in said(admins=[alice, alice])[0]
    assert "like 192.0.2.5" in said(time_servers=["pool ntp; rm"])[0]
    assert "like 1G" in said(journal_max="plenty")[0]
    assert "https" in said(log_host="http://192.0.2.7")[0]
    assert "at least 15" in said(confirm_timeout_s=5)[0]
    assert "authorised" in said(banner="Welcome to Debian 12")[0]


# --- the site's key


SITE: dict[str, Any] = {"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.0/24"]}


def test_the_baseline_is_off_unless_asked_for() -> None:
    assert Site.model_validate(SITE).baseline is None
    asked = Site.model_validate({**SITE, "baseline": {}}).baseline
    assert asked is not None and asked.level == 1 and asked.root_login == "prohibit-password"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"level": 3}, "level"),
        ({"root_login": "no"}, "no admin may act as root"),
        ({"root_login": "yes"}, "root_login"),
        ({"admins": [{"name": "alice", "keys": []}]}, "keys"),
        ({"time_servers": ["pool.example"]}, "time_servers"),
        ({"log_host": "http://192.0.2.7"}, "log_host"),
        ({"waive": ["ssh-root"]}, "waive"),
    ],
)
def test_a_baseline_that_is_wrong_is_refused_by_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Site.model_validate({**SITE, "baseline": given})


def test_every_key_of_the_site_reaches_the_role() -> None:
    wired = (ROLE.parents[1] / "playbooks/group_vars/all.yml").read_text()
    missing = [
        k for k in Baseline.model_fields if f'appliance_os_baseline_{k}: "{{{{ appliance_baseline.{k} ' not in wired
    ]
    assert missing == []


def test_modes_are_only_ever_narrowed_and_what_is_not_there_is_left() -> None:
    wanted = [{"want": {"files": [
        {"path": "/a", "mode": "0640", "groups": ["root", "shadow"]}, {"path": "/none", "mode": "0600"},
        {"path": "/b", "mode": "0700"}, {"path": "/odd|name", "mode": "0600"}, {"path": "/gone", "absent": True, "mode": "0"},
    ]}}]  # fmt: skip
    said = [
        "604 0 shadow regular file|/a",
        "2755 5 root directory|/b",
        "777 0 root symbolic link|/odd|name",
        "600 0 root regular file|/gone",
    ]
    seen = {f["path"]: f for f in filters.os_baseline_seen(wanted, said)}
    assert {p: (f["mode"], f["narrow"]) for p, f in seen.items()} == {
        "/a": ("0604", "0600"), "/b": ("2755", "0700"), "/odd|name": ("0777", "0600"),
    }  # fmt: skip
    assert seen["/odd|name"]["link"] and not seen["/a"]["link"]
    assert (seen["/b"]["uid"], seen["/b"]["groups"], seen["/a"]["group"]) == (5, ["root"], "shadow")
