"""What the playbooks make of a site, with Ansible's own eyes: with zones every rule and address is of its zone, without as ever."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from installer.site.inventory import load
from installer.site.variables import variables

TREE = Path(__file__).resolve().parents[2]
SITE = """\
appliance_site:
  control: {address: 10.1.0.5}
  management_sources: [10.1.0.5/32]
  client_sources: [198.51.100.0/24]
  egress:
    - {name: nfs, destinations: [10.3.0.9], ports: [2049], zone: "%s"}
"""
ZONES = """\
  zones:
    management: {networks: [10.1.0.0/24]}
    inference: {networks: ["2001:db8:2::/64"]}
    storage: {interfaces: [eth2]}
"""
HOSTS = """\
all:
  children:
    gateway: {hosts: {gw-1: {ansible_host: 10.1.0.10, appliance_zone_addresses: {%s}}}}
    gpu: {hosts: {gpu-1: {ansible_host: 10.1.0.21, appliance_zone_addresses: {%s}}}}
"""
ASKED = (
    "appliance_firewall_ingress", "appliance_firewall_egress", "appliance_firewall_zones", "appliance_firewall_management_zone",
    "appliance_nginx_listen_addresses", "appliance_nginx_upstreams", "appliance_pki_names", "appliance_firewall_evidence_dir",
)  # fmt: skip


def asked(place: Path, *, zoned: bool) -> dict[str, dict[str, Any]]:
    """The variables of the roles on each node."""
    site = place / "site"
    (site / "group_vars/all").mkdir(parents=True)
    (site / "group_vars/all/site.yml").write_text(SITE % ("storage" if zoned else "") + (ZONES if zoned else ""))
    inside = ('inference: "2001:db8:2::10"', 'inference: "2001:db8:2::21"') if zoned else ("", "")
    (site / "hosts.yml").write_text(HOSTS % inside)
    given = variables(load(site), "x-1", {}) | {
        "appliance_ca_dir": "/srv/site/ca",
        "appliance_depot_view": "/nowhere",
        "ansible_python_interpreter": sys.executable,
    }
    (place / "given.json").write_text(json.dumps(given))
    (place / "group_vars").symlink_to(TREE / "playbooks/group_vars")
    copies = [
        {"ansible.builtin.copy": {"dest": f"{place}/{{{{ inventory_hostname }}}}.json", "content": "{{ found | to_json }}"},
         "vars": {"found": {name: f"{{{{ {name} }}}}" for name in ASKED}}}
    ]  # fmt: skip
    play = [{"hosts": "gateway:gpu", "gather_facts": False, "connection": "local", "tasks": copies}]
    (place / "play.yml").write_text(json.dumps(play))
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "ansible-playbook", "-i", site, "-e", f"@{place}/given.json", place / "play.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: json.loads((place / f"{host}.json").read_text()) for host in ("gw-1", "gpu-1")}


def test_with_zones_everything_is_in_its_own(tmp_path: Path) -> None:
    found = asked(tmp_path, zoned=True)
    gateway, gpu = found["gw-1"], found["gpu-1"]
    assert gateway["appliance_firewall_management_zone"] == "management"
    assert [z["name"] for z in gateway["appliance_firewall_zones"]] == ["inference", "management", "storage"]
    assert [(e["name"], e["zone"]) for e in gateway["appliance_firewall_ingress"]] == [("gateway", "inference")]
    assert [(e["name"], e["zone"], e["sources"]) for e in gpu["appliance_firewall_ingress"]] == [
        ("inference", "inference", ["2001:db8:2::10"])
    ]
    assert [(e["name"], e["zone"], list(e["destinations"])) for e in gateway["appliance_firewall_egress"]] == [
        ("depot", "management", ["10.1.0.5"]), ("inference", "inference", ["2001:db8:2::21"]), ("nfs", "storage", ["10.3.0.9"]),
    ]  # fmt: skip
    assert (gateway["appliance_nginx_listen_addresses"], gpu["appliance_nginx_listen_addresses"]) == (
        ["[2001:db8:2::10]"], ["[2001:db8:2::21]"],
    )  # fmt: skip
    assert set(gpu["appliance_pki_names"]) == {"gpu-1", "10.1.0.21", "2001:db8:2::21", "inference.appliance.internal"}
    assert gpu["appliance_firewall_evidence_dir"] == "/srv/site/evidence"


def test_without_zones_nothing_names_one(tmp_path: Path) -> None:
    found = asked(tmp_path, zoned=False)
    gateway, gpu = found["gw-1"], found["gpu-1"]
    for node in (gateway, gpu):
        assert (node["appliance_firewall_zones"], node["appliance_firewall_management_zone"]) == ([], "")
        assert node["appliance_nginx_listen_addresses"] == ["*"]
        assert {e["zone"] for e in node["appliance_firewall_ingress"] + node["appliance_firewall_egress"]} == {""}
    assert gpu["appliance_firewall_ingress"][0]["sources"] == ["10.1.0.10"]
    assert set(gpu["appliance_pki_names"]) == {"gpu-1", "10.1.0.21", "inference.appliance.internal"}
