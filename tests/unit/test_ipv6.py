"""IPv6 in what is written down: URLs, listeners, the lab."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from engine.rules.networks import canonical, with_port
from installer.lab.disk import network_file
from installer.lab.network import rules
from installer.lab.plan import local_network, names_of, nodes_of

TREE = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("address", "written"), [("192.0.2.5", "192.0.2.5:7443"), ("2001:db8::5", "[2001:db8::5]:7443")]
)
def test_an_ipv6_address_stands_in_brackets(address: str, written: str) -> None:
    assert with_port(address, 7443) == written


def test_one_address_has_one_spelling() -> None:
    assert canonical("2001:DB8:0:0::5") == "2001:db8::5" and canonical("node-1") == "node-1"


@pytest.mark.parametrize(
    ("address", "clients", "listen"),
    [
        ("192.0.2.10", ["198.51.100.0/24"], ["*"]),
        ("2001:db8::10", ["2001:db8:1::/64"], ["[::]"]),
        ("192.0.2.10", ["2001:db8:1::/64"], ["*", "[::]"]),
        ("2001:db8::10", ["198.51.100.0/24"], ["*", "[::]"]),
    ],
)  # fmt: skip
def test_the_playbooks_make_urls_and_listeners_of_the_families_that_a_site_has(
    address: str, clients: list[str], listen: list[str], tmp_path: Path
) -> None:
    """Templated by Ansible from the file that the product ships."""
    control = "2001:db8::5" if ":" in address else "192.0.2.5"
    variables = yaml.safe_load((TREE / "playbooks/group_vars/all.yml").read_text()) | {
        "appliance_site": {"control": {"address": control, "port": 7443}, "client_sources": clients},
        "appliance_zones": [],
        "appliance_is_gateway": True,
        "appliance_edge_address": address,
    }
    (tmp_path / "vars.yml").write_text(yaml.safe_dump(variables))
    (tmp_path / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n    - ansible.builtin.copy:\n"
        '        content: "{{ [appliance_content_depot, appliance_nginx_listen_addresses] | to_yaml }}"\n'
        f"        dest: {tmp_path}/made.yml\n        mode: '0600'\n"
    )
    argv = [
        f"{sysconfig.get_path('scripts')}/ansible-playbook",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        f"@{tmp_path}/vars.yml",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        f"{tmp_path}/play.yml",
    ]
    done = subprocess.run(argv, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=False, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load((tmp_path / "made.yml").read_text()) == [f"https://{with_port(control, 7443)}", listen]


def test_a_lab_with_ipv6_has_addresses_of_both_families_and_lets_nothing_else_through() -> None:
    network6 = local_network("try")
    assert network6.is_private and network6 == local_network("try") != local_network("other")
    node = nodes_of("try", 1, IPv4Network("10.87.3.0/24"), network6)[0]
    assert node.address == "10.87.3.11" and node.address6 == str(network6[11])
    file = network_file(node.address, "10.87.3.1", node.address6, str(network6[1]))
    assert f"Address={node.address6}/64" in file and f"Gateway={network6[1]}" in file
    lines = [line.strip() for line in rules(names_of("try"), "10.87.3.1", network6).splitlines()]
    accepted = [line for line in lines if "accept" in line and "ip6" in line]
    assert accepted == [f'iifname "{names_of("try").bridge}" ip6 daddr {network6[1]} accept']
    assert lines.index(accepted[0]) < next(i for i, line in enumerate(lines) if "nfproto ipv6 counter drop" in line)


def test_a_lab_without_it_has_none() -> None:
    assert "ip6" not in rules(names_of("try"), "10.87.3.1") and "Gateway=10.87.3.1" in network_file(
        "10.87.3.11", "10.87.3.1"
    )
    assert nodes_of("try", 1, IPv4Network("10.87.3.0/24"))[0].address6 == ""
