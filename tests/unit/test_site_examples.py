"""Values from documentation that a site still has are told with file, line and key, and refuse nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from installer.cli.main import app
from installer.site.ansiblelist import Told
from installer.site.inventory import Host
from installer.site.rules.examples import left, unreal

TREE = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "value",
    [
        "192.0.2.0/24", "192.0.2.5/32", "198.51.100.77", "203.0.113.128/25", "2001:db8::1", "2001:DB8:1::/48", "3fff::7",
        "llm.example.internal", "example.com", "a.b.example.ORG", "node.example", "example", "gw.invalid", "example.net.",
        "https://log.example.com:19532/upload",
    ],
)  # fmt: skip
def test_a_value_from_documentation_is_known(value: str) -> None:
    assert "documentation" in unreal(value)


@pytest.mark.parametrize(
    "value",
    [
        "192.0.3.1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "192.0.0.0/16", "2001:db9::1", "fd00::1", "", "https://[", "llm.ours.internal",
        "myexample.com", "example.company", "counterexample", "Sun *-*-* 02:00:00", 5, True, None, "https://log.ours.internal/example.com",
    ],
)  # fmt: skip
def test_any_other_value_is_not(value: object) -> None:
    assert unreal(value) == ""


def test_a_host_is_told_by_the_line_of_its_variable_and_a_site_without_a_file_by_the_inventory() -> None:
    told = Told(
        {}, {"ansible_host": "10.0.0.1", "appliance_zone_addresses": {"peer": "203.0.113.9"}}, {}, "hosts.yml:7"
    )
    found = list(
        left(Path("site"), [Host("a.example.internal", "10.0.0.1", ("gpu",))], {"a.example.internal": told},
             {"zones": {"peer": {"networks": ["203.0.113.0/24"]}}}, None)
    )  # fmt: skip
    assert [(f.where, f.key, f.value) for f in found] == [
        ("hosts.yml:7", "a.example.internal.name", "a.example.internal"),
        ("hosts.yml:7", "a.example.internal.appliance_zone_addresses.peer", "203.0.113.9"),
        ("site", "zones.peer.networks.0", "203.0.113.0/24"),
    ]


def site(where: Path, address: str, names: list[str], control: str) -> Path:
    (where / "group_vars/all").mkdir(parents=True)
    node: dict[str, Any] = {"ansible_host": address, "appliance_names": names}
    hosts = {"all": {"children": {"gateway": {"hosts": {"gw-1": node}}}}}
    (where / "hosts.yml").write_text(yaml.safe_dump(hosts))
    settings = {"appliance_site": {"control": {"address": control}, "management_sources": [f"{control}/32"]}}
    (where / "group_vars/all/site.yml").write_text(yaml.safe_dump(settings))
    return where


def test_site_check_passes_and_warns_with_file_line_and_key(tmp_path: Path) -> None:
    path = site(tmp_path / "site", "192.0.2.9", ["llm.example.internal", "llm.ours.internal"], "10.0.0.5")
    done = CliRunner().invoke(app, ["--json", "site", "check", "-i", str(path)])
    assert done.exit_code == 0, done.output
    warnings = json.loads(done.stdout)["warnings"]
    assert [(w["key"], w["value"]) for w in warnings] == [
        ("gw-1.ansible_host", "192.0.2.9"),
        ("gw-1.appliance_names.0", "llm.example.internal"),
    ]
    lines = (path / "hosts.yml").read_text().splitlines()
    file, _, line = warnings[0]["where"].rpartition(":")
    assert Path(file) == path / "hosts.yml" and "192.0.2.9" in lines[int(line) - 1]
    spoken = CliRunner().invoke(app, ["site", "check", "-i", str(path)])
    assert "gw-1.ansible_host: 192.0.2.9 is reserved for documentation" in spoken.stderr and spoken.exit_code == 0


def test_the_control_host_and_networks_are_looked_at_and_a_real_site_has_no_warning(tmp_path: Path) -> None:
    real = CliRunner().invoke(
        app, ["--json", "site", "check", "-i", str(site(tmp_path / "a", "10.0.0.9", [], "10.0.0.5"))]
    )
    assert json.loads(real.stdout)["warnings"] == []
    path = site(tmp_path / "b", "10.0.0.9", [], "198.51.100.5")
    found = json.loads(CliRunner().invoke(app, ["--json", "site", "check", "-i", str(path)]).stdout)["warnings"]
    assert [w["key"] for w in found] == ["control.address", "management_sources.0"]
    lines = (path / "group_vars/all/site.yml").read_text().splitlines()
    assert all("198.51.100.5" in lines[int(w["where"].rpartition(":")[2]) - 1] for w in found)


def test_the_example_inventory_is_told_whole() -> None:
    done = CliRunner().invoke(app, ["--json", "site", "check", "-i", str(TREE / "inventories/example")])
    keys = {w["key"] for w in json.loads(done.stdout)["warnings"]}
    assert {"gw-1.ansible_host", "gw-1.appliance_names.0", "control.address", "client_sources.0"} <= keys
