"""What a site says of containers and GPU metrics, on its way to the roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from installer.site.inventory import Host, Inventory, load
from installer.site.settings import Site
from installer.site.variables import variables

IMAGE = f"web@sha256:{'0' * 64}"
BASE: dict[str, Any] = {"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.5/32"]}
HOSTS = (
    Host("gw-1", "192.0.2.10", ("gateway",)),
    Host("gpu-1", "2001:db8::21", ("gpu", "monitoring")),
    Host("mon-1", "192.0.2.30", ("monitoring",)),
)


def given(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    site = Site.model_validate({**BASE, "containers": list(containers), **more})
    return variables(Inventory(Path("site"), HOSTS, site), "ours-1.0.0", {})


def test_a_container_goes_to_the_hosts_of_its_groups_and_once() -> None:
    made = given({"name": "a", "image": IMAGE, "memory": "1G", "groups": ["gpu", "monitoring"]})["appliance_containers"]
    assert {host: [c["name"] for c in found] for host, found in made.items()} == {
        "gw-1": [], "gpu-1": ["a"], "mon-1": ["a"],
    }  # fmt: skip
    assert "groups" not in made["gpu-1"][0]


def test_a_port_with_sources_listens_on_the_address_and_opens_the_firewall_and_another_does_neither() -> None:
    ports = [
        {"port": 8085, "container_port": 80, "sources": ["198.51.100.0/24"]},
        {"port": 8086, "container_port": 81},
    ]
    made = given({"name": "a", "image": IMAGE, "memory": "1G", "ports": ports})
    assert [p["address"] for p in made["appliance_containers"]["gpu-1"][0]["ports"]] == ["[2001:db8::21]", "127.0.0.1"]
    assert made["appliance_container_ingress"] == {
        "gw-1": [], "mon-1": [],
        "gpu-1": [{"name": "container a", "ports": [8085], "protocol": "tcp", "sources": ["198.51.100.0/24"]}],
    }  # fmt: skip


def test_a_site_that_asks_for_neither_says_so_to_the_playbook() -> None:
    site = variables(Inventory(Path("site"), HOSTS, Site.model_validate(BASE)), "ours-1.0.0", {})["appliance_site"]
    assert site["containers"] is None and site["gpu_metrics"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": "web:latest"}, {"user": "0:0"}, {"user": "65532"}, {"memory": "50%"}, {"devices": ["/dev/nvidia0"]},
        {"groups": ["control"]}, {"groups": []}, {"privileged": True}, {"ports": [{"port": 80, "container_port": 80}]},
        {"volumes": [{"source": "a", "target": "relative"}]},
    ],
)  # fmt: skip
def test_what_a_container_may_not_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        given({"name": "a", "image": IMAGE, "memory": "1G", **wrong})


def test_two_containers_with_one_port_are_refused_and_the_port_is_named(tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text("all: {children: {gpu: {hosts: {gpu-1: {ansible_host: 192.0.2.21}}}}}\n")
    one = f"image: {IMAGE}, memory: 1G, ports: [{{port: 8085, container_port: 80}}]"
    (tmp_path / "group_vars/all/site.yml").write_text(
        "appliance_site:\n  control: {address: 192.0.2.5}\n  management_sources: [192.0.2.5/32]\n"
        f"  containers: [{{name: a, {one}}}, {{name: b, {one}}}]\n"
    )
    with pytest.raises(
        Exception, match=r"site.yml:4: containers\.1\.ports\.0\.port: has the port 8085 of the container a"
    ):
        load(tmp_path)
