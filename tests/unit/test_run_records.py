"""What a run keeps: its log and its report. Not the operator's environment, not Ansible's own records, no value of a variable."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine import process
from installer import product
from installer.cli.main import app
from installer.site import concealing, playbooks
from installer.site.doctor import control
from installer.site.events import Failure, Tracker
from installer.site.inventory import Inventory, load
from installer.site.playbooks import Playbooks
from installer.site.status import Places
from installer.site.variables import variables

TOKENS = {
    "AWS_SECRET_ACCESS_KEY": "pl4nted-cloud-key", "AZURE_CLIENT_SECRET": "pl4nted-azure", "HF_TOKEN": "hf_pl4ntedHub",
    "GITHUB_TOKEN": "ghp_pl4nted", "VAULT_TOKEN": "hvs.pl4nted", "ANSIBLE_BECOME_PASS": "pl4nted-become",
    "APPLIANCE_PASSPHRASE_FILE": "/pl4nted/passphrase", "http_proxy": "http://svc:pl4nted-proxy@192.0.2.9:3128",
    "SOMETHING": "pl4nted-something",
}  # fmt: skip
SERVICE = {"LICENCE": 'pl4nted-licence "quoted" %', "PORT_PIN": "4711"}
CONTAINER = {"COLLECTOR_AUTH": "pl4nted-collector"}
ALL = (*TOKENS.values(), *SERVICE.values(), *CONTAINER.values(), json.dumps(SERVICE["LICENCE"])[1:-1])
BOOK = """
- hosts: all
  gather_facts: false
  connection: local
  tasks:
    - name: Keep what Ansible was started with
      ansible.builtin.shell: "tr '\\\\0' '\\\\n' < /proc/self/environ > {out}/environ"
    - name: Write the environment
      ansible.builtin.copy:
        dest: "{out}/service.env"
        content: |
          {{% for name, value in appliance_services['gpu-1'][0].environment.items() %}}
          {{{{ name }}}}={{{{ value | to_json }}}}
          {{% endfor %}}
    - name: Show
      ansible.builtin.debug:
        var: appliance_containers
    - name: Fail with a value
      ansible.builtin.fail:
        msg: "PORT_PIN=4711 and {{{{ appliance_services['gpu-1'][0].environment.LICENCE }}}}"
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    site = {
        "control": {"address": "10.1.2.5"}, "management_sources": ["10.1.2.5/32"], "client_sources": ["10.1.3.0/24"],
        "services": [{"name": "tiny", "model": "tiny", "served_name": "tiny", "environment": SERVICE}],
        "containers": [
            {"name": "metrics", "image": f"metrics@sha256:{'a' * 64}", "memory": "1G", "environment": CONTAINER}
        ],
    }  # fmt: skip
    path = tmp_path / "site"
    (path / "group_vars/all").mkdir(parents=True)
    host = {
        "gpu-1": {"ansible_host": "10.1.2.21", "ansible_user": "root", "ansible_python_interpreter": "/usr/bin/python3"}
    }
    groups = {"all": {"children": {"gpu": {"hosts": host}, "gateway": {"hosts": {"gpu-1": {}}}}}}
    (path / "hosts.yml").write_text(yaml.safe_dump(groups))
    (path / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))
    return load(path)


def held(tree: Path) -> list[tuple[str, str]]:
    """Files that hold anything planted, with what it is."""
    return [
        (str(p), secret)
        for p in tree.rglob("*")
        if p.is_file()
        for secret in ALL
        if secret.encode() in p.read_bytes() and (secret != "4711" or b"PIN=4711" in p.read_bytes())
    ]


@pytest.mark.parametrize("check", [False, True])
def test_a_run_keeps_its_log_alone_without_environment_and_values(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    books, out = tmp_path / "product/playbooks", tmp_path / "out"
    books.mkdir(parents=True)
    out.mkdir()
    (books / "ansible.cfg").write_text("[defaults]\nstdout_callback = default\n")
    (books / "look.yml").write_text(BOOK.format(out=out))
    monkeypatch.setattr(product, "data", lambda name: tmp_path / "product" / name)
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    runs = tmp_path / "runs"
    killed = runs / "20200101T000000.000000Z/runner-1/artifacts/1"
    killed.mkdir(parents=True)
    (killed / "command").write_text("pl4nted-cloud-key")
    (killed.parents[2] / "ansible.log").write_text("what an earlier run said\n")
    run = runs / "20300101T000000.000000Z"
    run.mkdir(mode=0o700)
    tracker = Tracker(["gpu-1"], conceal=inventory.conceal)
    Playbooks(inventory, run, variables(inventory, "ours-1.0.0", {}), tracker, check, True).run("look.yml", ["gpu-1"])
    assert [p.name for p in run.iterdir()] == ["ansible.log"]
    assert stat.S_IMODE((run / "ansible.log").stat().st_mode) == 0o600
    assert [p.name for p in killed.parents[2].iterdir()] == ["ansible.log"]
    said = (run / "ansible.log").read_text()
    assert "TASK [Write the environment]" in said
    assert "LICENCE=" in said and "COLLECTOR_AUTH" in said and concealing.HIDDEN in said
    assert held(runs) == []
    [failure] = tracker.failures
    assert failure == Failure("gpu-1", "Fail with a value", "", "PORT_PIN=(not shown) and (not shown)")
    if not check:
        # The node has the values; what Ansible was started with has no token.
        assert "pl4nted-licence" in (out / "service.env").read_text()
        given = dict(line.partition("=")[::2] for line in (out / "environ").read_text().splitlines() if "=" in line)
        assert given["SSH_AUTH_SOCK"] == "/run/agent" and given["HOME"] == os.environ["HOME"]
        assert given.keys().isdisjoint(TOKENS)
        assert "pl4nted" not in (out / "environ").read_text()


def test_the_environment_of_ansible_is_a_list() -> None:
    given = {**dict.fromkeys(TOKENS, "x"), "HOME": "/root", "PATH": "/bin", "LD_PRELOAD": "x", "PYTHONPATH": "x"}
    assert playbooks.passed(given).keys() == {"HOME", "PATH"}
    assert playbooks.passed({**given, "MY_NODE": "1", "OTHER": "2"}, ["MY_NODE", "ABSENT"]).keys() == {
        "HOME",
        "PATH",
        "MY_NODE",
    }
    text = (Path(__file__).parents[2] / "docs/inventory.md").read_text()
    assert [n for n in (*process.KEPT, *playbooks.PASSED) if f"`{n}`" not in text] == []


def test_site_check_and_doctor_show_names_of_variables_and_no_values(inventory: Inventory) -> None:
    path = inventory.path
    shown = CliRunner().invoke(app, ["--json", "site", "check", "-i", str(path)])
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.output)["site"]
    assert told["services"][0]["environment"] == dict.fromkeys(SERVICE, "(not shown)")
    texts: dict[str, Any] = control(inventory, Places(path, path, path, path))
    for text in (shown.output, json.dumps(texts)):
        assert "COLLECTOR_AUTH" in text and "pl4nted" not in text and "4711" not in text


def test_a_short_value_is_left_out_behind_its_name_alone() -> None:
    text = "MODE=on\nturned on\n{'MODE': 'on', \"MODE\": \"on\"} XMODE=on"
    assert concealing.without(text, [{"MODE": "on"}]) == (
        "MODE=(not shown)\nturned on\n{'MODE': '(not shown)', \"MODE\": \"(not shown)\"} XMODE=on"
    )


def test_the_variables_that_an_inventory_looks_up_are_passed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "hosts.yml").write_text(
        "a: \"{{ lookup('env', 'ONE') }}\"\nb: '{{ query(\"ansible.builtin.env\", \"TWO\", \"THREE\") }}'\nc: \"{{ lookup('file', 'NOT') }}\"\n"
    )
    (tmp_path / "group_vars/all.yml").write_text(
        "d: \"{{ lookup( 'ansible.builtin.env','FOUR' ) | default('HOME') }}\"\n"
    )
    assert playbooks.looked_up(tmp_path) == ["FOUR", "ONE", "THREE", "TWO"]
    (tmp_path / "group_vars/all.yml").write_text(
        """e: '{{ lookup(''env'',\n    ''FIVE'') }}'\nf: "{{ lookup(\\"env\\", \\"SIX\\") }}"\ng: "{{ lookup('env', 'SEVEN', default='') }}"\n"""
    )
    assert playbooks.looked_up(tmp_path) == ["FIVE", "ONE", "SEVEN", "SIX", "THREE", "TWO"]
    demo = playbooks.looked_up(Path(__file__).parents[2] / "inventories/demo")
    assert demo == ["APPLIANCE_DEMO_CONTROL", "APPLIANCE_DEMO_KEY", "APPLIANCE_DEMO_KNOWN_HOSTS", "APPLIANCE_DEMO_NODE"]
