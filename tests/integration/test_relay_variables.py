"""What playbooks/group_vars/all.yml makes of a site for the relay, evaluated by Ansible itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from installer.site.settings import Relay, Site
from tests.links import TREE

NODES = {f"gpu-{i}": f"192.0.2.{20 + i}" for i in (1, 2, 3)} | {"gw-1": "2001:db8::10"}
SITE = Site.model_validate({"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.5"]})
ASKED = ("appliance_content_relay", "appliance_content_upstream", "appliance_content_peers", "appliance_firewall_ingress",
         "appliance_firewall_egress")  # fmt: skip


PLAYS = {"whole": "all", "part": "gpu-1:gpu-3", "alone": "gpu-3", "off": "gpu-2"}  # name and hosts
ORDER = ["gw-1", "gpu-1", "gpu-2", "gpu-3"]
Said = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """The variables by play and host."""
    place = tmp_path_factory.mktemp("site")
    members = {"gpu": {"hosts": {n: None for n in NODES if n != "gw-1"}}, "gateway": {"hosts": {"gw-1": None}}}
    inventory = {"all": {"hosts": {n: {"ansible_host": a} for n, a in NODES.items()}, "children": members}}
    (place / "hosts.json").write_text(json.dumps(inventory))
    shared = {
        "appliance_site": SITE.model_copy(update={"relay": Relay(port=7000)}).model_dump(mode="json"),
        "appliance_release": "demo-1.0.0", "appliance_depot_view": str(place), "appliance_services": [], "appliance_runtime_profiles": [],
        "appliance_zones": [], "appliance_service_zones": {}, "appliance_container_ingress": {n: [] for n in NODES},
        "appliance_service_addresses": dict.fromkeys(("relay", "gateway", "inference"), NODES),
    }  # fmt: skip
    (place / "extra.json").write_text(json.dumps(shared))
    # Ansible finds the real variables by their place beside the play.
    (place / "group_vars").symlink_to(TREE / "playbooks" / "group_vars")
    wanted = "{{ {" + ", ".join(f"'{name}': {name}" for name in ASKED) + "} | to_json }}"
    (place / "play.json").write_text(json.dumps([
        {
            "hosts": hosts, "gather_facts": False, "connection": "local",
            "vars": {"appliance_relay_order": [] if name == "off" else ORDER, "ansible_python_interpreter": sys.executable},
            "tasks": [{"ansible.builtin.debug": {"msg": f"{name}={{{{ inventory_hostname }}}}={wanted}"}}],
        }
        for name, hosts in PLAYS.items()
    ]))  # fmt: skip
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "-e", "@extra.json", "play.json"],
        cwd=place, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    said: dict[str, Said] = {name: {} for name in PLAYS}
    for line in re.findall(r'"msg": (".*")', done.stdout):
        play, host, told = json.loads(line).split("=", 2)
        said[play][host] = json.loads(told)
    return said


def named(flows: list[dict[str, Any]]) -> dict[str, Any]:
    return {f["name"]: f for f in flows}


def test_every_node_knows_who_is_before_it_and_the_firewall_lets_neighbours_talk(plays: dict[str, Said]) -> None:
    last, first = plays["whole"]["gpu-3"], plays["whole"]["gw-1"]
    assert last["appliance_content_upstream"] == ["192.0.2.22", "192.0.2.21", "2001:db8::10"]
    assert first["appliance_content_upstream"] == []
    assert first["appliance_content_relay"] == "[2001:db8::10]:7000"
    assert last["appliance_content_relay"] == "192.0.2.23:7000"
    others = ["192.0.2.21", "192.0.2.22", "2001:db8::10"]
    assert sorted(last["appliance_content_peers"]) == others
    ingress, egress = (
        named(last["appliance_firewall_ingress"])["relay"],
        named(last["appliance_firewall_egress"])["relay"],
    )
    assert (sorted(ingress["sources"]), ingress["ports"]) == (others, [7000])
    assert (sorted(egress["destinations"]), egress["ports"]) == (others, [7000])


def test_nodes_outside_this_run_are_left_out_and_a_single_node_does_not_relay(plays: dict[str, Said]) -> None:
    assert plays["part"]["gpu-3"]["appliance_content_upstream"] == ["192.0.2.21"]
    assert plays["part"]["gpu-3"]["appliance_content_peers"] == ["192.0.2.21"]
    alone = plays["alone"]["gpu-3"]
    assert (alone["appliance_content_relay"], alone["appliance_content_upstream"]) == ("", [])


def test_a_site_without_relay_opens_no_port(plays: dict[str, Said]) -> None:
    said = plays["off"]["gpu-2"]
    assert said["appliance_content_relay"] == ""
    assert "relay" not in named(said["appliance_firewall_ingress"]) | named(said["appliance_firewall_egress"])
