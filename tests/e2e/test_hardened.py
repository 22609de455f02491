"""A site that asks for every control of the baseline: what the product installs, and serves, on nodes that are hardened at the same time.

The role's own scenario says what each control does; here it is what they do to the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.process import run
from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, ask, ask_again, install_argv, site_environment

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

ADMIN = "alice"
ACCEPTED = "journalctl --unit=appliance-integrity-accept.service --output=cat --no-pager"
BASELINE = "/opt/appliance/current/engine/bin/appliance-engine baseline --json"


@dataclass
class Hardened:
    """One node, its inventory, and who logs in: root until an admin does."""

    demo: Demo
    lab: Lab
    inventory: Path
    key: Path
    user: str = "root"

    def write(self, max_model_len: int = 1024, **baseline: Any) -> None:
        """The demo's inventory with a baseline."""
        site = yaml.safe_load((TREE / "inventories/demo/group_vars/all/site.yml").read_text())
        admin = {"name": ADMIN, "keys": [self.key.with_suffix(".pub").read_text().strip()], "sudo": "nopasswd"}
        site["appliance_site"]["baseline"] = {"level": 2, "admins": [admin], **baseline}
        site["appliance_site"]["services"][0]["args"]["max-model-len"] = max_model_len
        (self.inventory / "group_vars/all/site.yml").write_text(yaml.safe_dump(site))
        hosts = yaml.safe_load((TREE / "inventories/demo/hosts.yml").read_text())
        if self.user != "root":
            hosts["all"]["vars"] |= {"ansible_user": self.user, "ansible_ssh_private_key_file": str(self.key)}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))

    def install(self, *words: str) -> dict[str, Any]:
        """`appliance install`; returns what was said of the node."""
        argv = [*install_argv(self.demo, self.inventory), *words, self.demo.bundle]
        outcome = self.demo.appliance(*argv, json_output=True)
        assert outcome["good"] and outcome["proof"][0]["good"], outcome["failures"]
        said: dict[str, Any] = outcome["nodes"]["node-1"]
        return said

    def on(self, command: str, ok: tuple[int, ...] = (0,)) -> str:
        start = self.lab.ssh(self.lab.nodes[0].address)
        if self.user != "root":
            start[start.index(str(self.lab.key))] = str(self.key)
            start[-1] = start[-1].replace("root@", f"{self.user}@")
            start.append("sudo")
        return run([*start, command], ok=ok, timeout_s=900).stdout

    def not_in_force(self) -> list[dict[str, Any]]:
        """Enforced controls that fail, with what was seen."""
        told = json.loads(self.on(BASELINE, ok=(0, 1)))
        assert len(told["controls"]) > 50
        return [c for c in told["controls"] if c["result"] == "fail" and c["enforced"]]


@pytest.fixture(scope="module")
def site(demo: Demo) -> Iterator[Hardened]:
    work = demo.work / "hardened"
    shutil.copytree(TREE / "inventories/demo", work / "site")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", ADMIN, "-f", work / "key"])
    lab = up(f"hard-{os.getpid()}", owner_pid=os.getpid())
    try:
        site_environment(demo, lab)
        yield Hardened(demo, lab, work / "site", work / "key")
    finally:
        down(lab.name)


# The tests below follow one node through its life; pytest runs them in this order.


def test_a_bare_node_is_hardened_and_serves(site: Hardened) -> None:
    site.write()
    assert site.install()["changed"] > 0
    assert ask(site.demo, site.lab)
    assert [c for c in site.not_in_force() if not c["reboot"]] == []


def test_a_second_install_changes_nothing(site: Hardened) -> None:
    assert site.install("--full")["changes"] == []


def test_what_an_install_leaves_is_what_files_are_compared_with(site: Hardened) -> None:
    site.on("systemctl start appliance-integrity.service")
    before = site.on(ACCEPTED)
    site.write(max_model_len=768)
    assert site.install()["changes"]
    site.on("systemctl start appliance-integrity.service")
    told = site.on(ACCEPTED)
    assert told.startswith(before)
    assert "tiny" in told[len(before) :], "what differed from the record before is on record itself"


def test_an_admin_installs_where_root_does_not_log_in(site: Hardened) -> None:
    root = site.lab.ssh(site.lab.nodes[0].address)
    site.user = ADMIN
    site.write(max_model_len=768, root_login="no")
    site.install()
    done = subprocess.run([*root, "true"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 255 and "Permission denied" in done.stderr
    assert site.install()["changes"] == []
    assert ask(site.demo, site.lab)


def test_all_of_it_is_in_force_after_a_reboot(site: Hardened) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = site.on(boot)
    site.on("systemctl reboot", ok=(0, 255))
    deadline = time.monotonic() + 900
    while site.on(boot, ok=(0, 255)) in ("", before):
        assert time.monotonic() < deadline, "the node did not restart"
        time.sleep(1)
    assert ask_again(site.demo, site.lab)
    assert site.not_in_force() == []
    site.on("/opt/appliance/current/engine/bin/appliance-engine egress")  # fails unless every attempt was denied
