"""What the playbooks make of a site with tenants, with Ansible's own eyes, and the rules that the firewall makes of that, with nft's."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from installer.site.ansiblelist import not_hosts
from installer.site.inventory import load
from installer.site.variables import variables
from tests import tenantsite as lab

TREE = Path(__file__).resolve().parents[2]
ASKED = (
    "appliance_has_tenants", "appliance_firewall_egress", "appliance_nginx_gateway_sockets", "appliance_nginx_more_endpoints",
    "appliance_nginx_client_certificates", "appliance_nginx_gateway_wait_s", "appliance_gateway_peers", "appliance_gateway_workers",
)  # fmt: skip


def play(where: Path, site: Path, tasks: list[dict[str, Any]], **more: Any) -> None:
    """Run tasks for every node of a site on this machine."""
    given = variables(load(site), "x-1", {}) | {
        "appliance_depot_view": "/nowhere",
        "ansible_python_interpreter": sys.executable,
    }
    (where / "given.json").write_text(json.dumps(given))
    if not (where / "group_vars").exists():
        (where / "group_vars").symlink_to(TREE / "playbooks/group_vars")
    (where / "play.yml").write_text(
        json.dumps([{"hosts": "gateway:gpu", "gather_facts": False, "connection": "local", "tasks": tasks, **more}])
    )
    argv = [
        f"{sysconfig.get_path('scripts')}/ansible-playbook",
        "-i",
        site,
        "-e",
        f"@{where}/given.json",
        where / "play.yml",
    ]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(where), "PYTHONPATH": str(TREE),
        "ANSIBLE_FILTER_PLUGINS": str(TREE / "roles/firewall/filter_plugins"), **not_hosts(site),
    }  # fmt: skip
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def asked(where: Path, site: Path) -> dict[str, dict[str, Any]]:
    content = {"dest": f"{where}/{{{{ inventory_hostname }}}}.json", "content": "{{ found | to_json }}"}
    found = {name: f"{{{{ {name} }}}}" for name in ASKED}
    play(where, site, [{"ansible.builtin.copy": content, "vars": {"found": found}}])
    return {p.stem: json.loads(p.read_text()) for p in where.glob("g*-*.json")}


def test_the_gateway_host_asks_through_its_workers_alone(tmp_path: Path) -> None:
    site = lab.write(
        tmp_path / "site",
        lab.TENANTS + "models:\n  - {name: tiny, endpoints: [chat, rerank]}\n",
        gateway={"tenants": "tenants.yml", "workers": 3},
    )
    found = asked(tmp_path, site)
    gateway, gpu = found["gw-1"], found["gpu-1"]
    assert gateway["appliance_has_tenants"] and not gpu["appliance_has_tenants"]
    assert gateway["appliance_nginx_gateway_sockets"] == [f"/run/appliance-gateway/{n}/api.sock" for n in (1, 2, 3)]
    assert gpu["appliance_nginx_gateway_sockets"] == []
    inference = [e for e in gateway["appliance_firewall_egress"] if e["name"] == "inference"]
    assert [(e["user"], e["destinations"], e["ports"]) for e in inference] == [
        ("appliance-gateway", ["10.1.0.21", "2001:db8::22"], [8444])
    ]
    assert [e["path"] for e in gpu["appliance_nginx_more_endpoints"]] == ["/v1/rerank"]
    assert gateway["appliance_nginx_more_endpoints"] == []
    assert gateway["appliance_nginx_gateway_wait_s"] > 1200


def test_a_site_without_tenants_is_as_ever(tmp_path: Path) -> None:
    site = lab.write(tmp_path / "site", gateway={})
    (site / "tenants.yml").unlink()
    found = asked(tmp_path, site)
    for node in found.values():
        assert not node["appliance_has_tenants"]
        assert node["appliance_nginx_gateway_sockets"] == node["appliance_nginx_more_endpoints"] == []
    (inference,) = [e for e in found["gw-1"]["appliance_firewall_egress"] if e["name"] == "inference"]
    assert "user" not in inference


def test_the_firewall_lets_the_workers_user_out_to_gpu_nodes_and_no_other(tmp_path: Path) -> None:
    site = lab.write(tmp_path / "site")
    roles = TREE / "roles/firewall"
    users = [{"ansible_facts": {"getent_passwd": {"appliance-gateway": ["x", "987", "987", "", "", ""]}}}]
    template = {"src": str(roles / "templates/inet.nft.j2"), "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}.nft"}
    values = {
        "firewall_users": {"results": users}, "ansible_managed": "a test", "services": [], "flows": "{{ appliance_firewall_egress | firewall_in_zone([]) }}",
        "firewall_places_here": [], "firewall_echo": {"zone": ""}, "appliance_firewall_echo_sources": [],
        "appliance_firewall_log_rate": "5/second", "appliance_firewall_router_advertisements": False,
    }  # fmt: skip
    files = [str(roles / "vars/main.yml")]  # not the defaults: as vars_files they would go before group_vars
    play(tmp_path, site, [{"ansible.builtin.template": template, "vars": values}], vars_files=files)
    rules = (tmp_path / "gw-1.nft").read_text()
    lines = [line.strip() for line in rules.splitlines() if "8444" in line]
    assert lines == [
        'meta skuid 987 ip daddr { 10.1.0.21/32 } tcp dport { 8444 } accept comment "inference"',
        'meta skuid 987 ip6 daddr { 2001:db8::22/128 } tcp dport { 8444 } accept comment "inference"',
    ]
    assert "skuid" not in (tmp_path / "gpu-1.nft").read_text()
    checked = subprocess.run(["nft", "-c", "-f", tmp_path / "gw-1.nft"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
