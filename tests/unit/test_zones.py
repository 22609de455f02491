"""Zones of a site: what lives where, which contradictions are refused, and what a node makes of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import InputError
from installer.site import zones
from installer.site.inventory import load
from installer.site.variables import variables
from installer.site.zones import Place, Use, Zone


def _plugin() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "roles/firewall/filter_plugins/firewall_zones.py"
    spec = importlib.util.spec_from_file_location("firewall_zones", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = _plugin()

FOUR = {
    "management": Zone(networks=("10.1.0.0/24", "2001:db8:1::/64")),
    "inference": Zone(networks=("10.2.0.0/24",), sources=("10.2.0.0/24", "198.51.100.0/24")),
    "storage": Zone(networks=("10.3.0.0/24",)),
    "peer": Zone(networks=("10.4.0.0/24",)),
}
SOUND = (
    Use(("management_sources",), ("10.1.0.5/32", "192.0.2.0/24"), "ssh"),
    Use(("client_sources",), ("198.51.100.7",), "gateway"),
    Use(("control", "address"), ("10.1.0.5",), "depot"),
    Use(("egress", 0), ("10.3.0.9",), zone="storage"),
)
GPU = Place("gpu-1", "10.1.0.21", ("gpu",), {"inference": "10.2.0.21", "peer": "10.4.0.21"})
GATEWAY = Place("gw-1", "2001:db8:1::10", ("gateway",), {"inference": "10.2.0.10"})


def test_four_zones_that_fit_have_no_fault() -> None:
    assert zones.faults(FOUR, SOUND, (GPU, GATEWAY)) == []
    assert zones.homes(FOUR) == {
        "ssh": "management", "depot": "management", "gateway": "inference", "inference": "inference", "relay": "peer",
    }  # fmt: skip


def test_without_zones_everything_is_as_before() -> None:
    assert zones.faults({}, SOUND[:3], (GPU,)) == []
    assert zones.homes({}) == {}
    assert [zones.address_for({}, service, GPU) for service in zones.SERVICES] == [GPU.address] * len(zones.SERVICES)
    named = zones.faults({}, SOUND, (GPU,))
    assert [(f.key, f.what) for f in named] == [(("egress", 0), "there is no zone storage")]


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({"storage": Zone()}, ("zones", "storage"), "neither networks nor interfaces"),
        ({"storage": Zone(networks=("10.1.0.128/25",))}, ("zones", "storage", "networks", 0), "overlaps 10.1.0.0/24 of the zone management"),
        ({"storage": Zone(networks=("10.0.0.0/8",))}, ("zones", "storage", "networks", 0), "overlaps"),
        ({"storage": Zone(networks=("10.3.0.0/24", "2001:db8::/32"))}, ("zones", "storage", "networks", 1), "2001:db8:1::/64"),
        (
            {"storage": Zone(interfaces=("eth1",)), "peer": Zone(interfaces=("eth2", "eth1"))},
            ("zones", "peer", "interfaces", 1), "belongs to the zone storage already",
        ),
        ({"storage": Zone(networks=("10.3.0.0/24",), services=("relay",))}, ("zones", "peer", "services"), "relay lives in the zone storage already"),
        ({"management": Zone(networks=("10.1.0.0/24",), services=("depot",))}, ("zones",), "ssh lives in no zone"),
        ({"inference": Zone(networks=("10.2.0.0/24",), services=("gateway",))}, ("zones",), "inference lives in no zone"),
        ({"management": Zone(networks=("10.1.0.0/24",), sources=("10.9.0.0/16",))}, ("management_sources",), "not among the sources of the zone management"),
        ({"inference": Zone(networks=("10.2.0.0/24",), sources=("10.2.0.0/24",))}, ("client_sources",), "zones.inference.sources"),
        ({"peer": Zone(networks=("192.0.2.0/24",))}, ("management_sources",), "lies in the zone peer, but ssh lives in the zone management"),
        ({"inference": Zone(networks=("10.2.0.0/24",)), "peer": Zone(networks=("198.51.100.0/24",))}, ("client_sources",), "lies in the zone peer"),
        ({"peer": Zone(networks=("10.3.0.0/29",)), "storage": Zone(interfaces=("eth3",))}, (), ""),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_named_at_its_key(changed: dict[str, Zone], key: zones.Key, words: str) -> None:
    found = zones.faults({**FOUR, **changed}, SOUND, ())
    if not key:
        assert found == []
        return
    assert found[0].key == key
    assert words in f"{found[0].what}. {found[0].remedy}"


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (Use(("egress", 1), ("10.3.0.9",), zone="store"), "there is no zone store"),
        (Use(("egress", 1), ("10.1.0.9",), zone="storage"), "10.1.0.9 lies in the zone management, but this flow"),
        (Use(("control", "address"), ("10.4.0.9",), "depot"), "depot lives in the zone management"),
    ],
)
def test_what_the_site_names_elsewhere_must_fit(use: Use, words: str) -> None:
    found = zones.faults(FOUR, (*SOUND, use), ())
    assert [f.key for f in found] == [use.key]
    assert words in found[0].what


@pytest.mark.parametrize(
    ("host", "key", "words"),
    [
        (Place("a", "10.1.0.9", ("gpu",), {}), ("appliance_zone_addresses", "inference"), "no address in the zone inference"),
        (Place("a", "10.1.0.9", ("gpu",), {"inference": "10.3.0.9"}), ("appliance_zone_addresses", "inference"), "none of the networks"),
        (Place("a", "10.1.0.9", ("gpu",), {"inference": "10.2.0.9", "x": "10.1.0.1"}), ("appliance_zone_addresses", "x"), "no zone x"),
        (Place("a", "10.1.0.9", ("gpu",), {"inference": "ten"}), ("appliance_zone_addresses", "inference"), "not an address"),
        (Place("a", "10.1.0.9", ("gpu",), {"inference": "127.0.0.1"}), ("appliance_zone_addresses", "inference"), "every machine itself"),
        (Place("a", "10.2.0.9", ("gpu",), {}), ("ansible_host",), "lies in the zone inference, but SSH lives in the zone management"),
        (Place("a", "10.1.0.9", ("monitoring",), {}), (), ""),
        (Place("a", "node.example", ("gateway",), {"inference": "10.2.0.9"}), (), ""),
    ],
)  # fmt: skip
def test_a_host_that_does_not_fit_is_named(host: Place, key: zones.Key, words: str) -> None:
    found = [f for f in zones.faults(FOUR, SOUND, (host,)) if f.host]
    assert [(f.host, f.key) for f in found] == ([("a", key)] if key else [])
    assert all(words in f.what for f in found)


NETWORK = st.tuples(st.integers(0, 255), st.integers(8, 30)).map(
    lambda n: f"10.{n[0] & (0xFF << max(0, 16 - n[1]) & 0xFF)}.0.0/{n[1]}"
)


@given(st.lists(NETWORK, min_size=1, max_size=3), st.lists(NETWORK, min_size=1, max_size=3))
def test_two_zones_are_sound_exactly_when_no_address_lies_in_both(one: list[str], other: list[str]) -> None:
    import ipaddress

    networks = [[ipaddress.ip_network(n) for n in side] for side in (one, other)]
    shared = any(a.overlaps(b) for a in networks[0] for b in networks[1])
    both = {
        "management": Zone(networks=tuple(one), services=zones.NEEDED),
        "peer": Zone(networks=tuple(other), services=()),
    }
    assert bool(zones.faults(both, (), ())) is shared


# -- the inventory ----------------------------------------------------------------------------------

SITE = """\
appliance_site:
  control: {address: 10.1.0.5}
  management_sources: [10.1.0.5/32]
  client_sources: [10.2.0.0/24]
  zones:
    management:
      networks: [10.1.0.0/24]
    inference:
      networks: [%s]
    storage:
      interfaces: [eth2]
  egress:
    - {name: nfs, destinations: [10.3.0.9], ports: [2049], zone: %s}
"""
HOSTS = """\
all:
  children:
    gateway: {hosts: {gw-1: {ansible_host: 10.1.0.10, appliance_zone_addresses: {inference: 10.2.0.10}}}}
    gpu: {hosts: {gpu-1: {ansible_host: 10.1.0.21, appliance_zone_addresses: {inference: %s}}}}
"""


def site(tmp_path: Path, network: str = "10.2.0.0/24", zone: str = "storage", address: str = "10.2.0.21") -> Path:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/site.yml").write_text(SITE % (network, zone))
    (tmp_path / "hosts.yml").write_text(HOSTS % address)
    return tmp_path


def test_the_roles_learn_where_everything_lives(tmp_path: Path) -> None:
    found = variables(load(site(tmp_path)), "x-1", {})
    assert [z["name"] for z in found["appliance_zones"]] == ["inference", "management", "storage"]
    assert found["appliance_service_zones"]["gateway"] == "inference"
    assert found["appliance_service_addresses"]["inference"] == {"gpu-1": "10.2.0.21", "gw-1": "10.2.0.10"}
    assert found["appliance_service_addresses"]["ssh"] == {"gpu-1": "10.1.0.21", "gw-1": "10.1.0.10"}
    assert found["appliance_zone_addresses_of"]["gpu-1"] == {"management": "10.1.0.21", "inference": "10.2.0.21"}
    json.dumps(found)


def test_the_inventory_is_refused_with_file_line_and_key(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        load(site(tmp_path, network="10.1.0.0/25", zone="vault"))
    told = str(refused.value)
    assert "site.yml:7: zones.management.networks.0: 10.1.0.0/24 overlaps 10.1.0.0/25 of the zone inference" in told
    assert "site.yml:13: egress.0: there is no zone vault" in told


def test_a_host_is_refused_by_its_name_and_variable(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"hosts.yml: gpu-1: appliance_zone_addresses.inference: 10.9.0.1 lies in none"
    ):
        load(site(tmp_path, address="10.9.0.1"))


@pytest.mark.parametrize("network", ["10.2.0.1/24", "0.0.0.0/0", "::/0", "ten", "10.2.0.0/33"])
def test_what_is_no_network_of_a_zone_is_refused(network: str) -> None:
    with pytest.raises(ValidationError):
        Zone(networks=(network,))


# -- the node ---------------------------------------------------------------------------------------

FACTS: dict[str, Any] = {
    "interfaces": ["lo", "eth0", "bond0.20", "eth-3", "eth4"],
    "lo": {"device": "lo", "ipv4": {"address": "127.0.0.1"}},
    "eth0": {"device": "eth0", "ipv4": {"address": "10.1.0.21"}, "ipv6": [{"address": "fe80::1"}, {"address": "2001:db8:1::21"}]},
    "bond0.20": {"device": "bond0.20", "ipv4": {"address": "10.2.0.21"}, "ipv4_secondaries": [{"address": "10.2.0.22"}]},
    "eth_3": {"device": "eth-3"},
    "default_ipv4": {"interface": "eth0", "address": "10.1.0.21"},
}  # fmt: skip
SAID: list[dict[str, Any]] = [{"name": n, **z.model_dump(mode="json")} for n, z in FOUR.items()]


def test_interfaces_are_found_by_their_addresses_and_by_their_names() -> None:
    said = [*SAID[:2], {"name": "storage", "interfaces": ["eth-3", "eth9"]}]
    places = {p["name"]: p for p in plugin.firewall_places(said, FACTS)}
    assert {n: p["interfaces"] for n, p in places.items()} == {
        "management": ["eth0"], "inference": ["bond0.20"], "storage": ["eth-3"],
    }  # fmt: skip
    assert places["management"]["addresses"] == ["10.1.0.21", "2001:db8:1::21"]
    assert places["inference"]["addresses"] == ["10.2.0.21", "10.2.0.22"]
    assert places["storage"]["foreign"] == ["10.1.0.0/24", "2001:db8:1::/64", "10.2.0.0/24"]
    assert plugin.firewall_places([], FACTS) == []


def policy(**changes: Any) -> dict[str, Any]:
    return {"management_zone": "management", "ingress": [], "egress": [], **changes}


@pytest.mark.parametrize(
    ("said", "change", "interfaces", "words"),
    [
        (SAID, {"management_zone": ""}, ["eth0", "bond0.20"], "management_zone is empty"),
        (SAID, {"management_zone": "x"}, ["eth0", "bond0.20"], "names the zone 'x'"),
        (SAID, {"ingress": [{"name": "a", "zone": "storage"}]}, ["eth0", "bond0.20"], "no interface in it"),
        (SAID, {"egress": [{"name": "a", "zone": "y"}]}, ["eth0", "bond0.20"], "egress entry 'a' names the zone 'y'"),
        (SAID, {}, ["eth0"], "bond0.20 belongs to the zone inference but is not in"),
        ([*SAID, {"name": "more", "interfaces": ["eth0"]}], {}, ["eth0", "bond0.20"], "cannot be kept apart"),
        ([*SAID, {"name": 'x" accept'}], {}, ["eth0", "bond0.20"], "lower-case letters"),
        (SAID, {"egress": [{"name": "a", "zone": "storage"}]}, ["eth0", "bond0.20"], ""),
        ([], {"management_zone": ""}, ["eth0"], ""),
    ],
)
def test_a_node_that_cannot_keep_zones_apart_is_refused(
    said: list[dict[str, Any]], change: dict[str, Any], interfaces: list[str], words: str
) -> None:
    found = plugin.firewall_zone_faults(plugin.firewall_places(said, FACTS), policy(**change), interfaces)
    assert len(found) == (1 if words else 0), found
    assert all(words in fault for fault in found)


def test_entries_get_the_interfaces_of_their_zone_and_never_more() -> None:
    places = plugin.firewall_places(SAID, FACTS)
    entries = [
        {"name": "ssh", "zone": "management"},
        {"name": "nfs", "zone": "storage"},
        {"name": "any"},
        {"name": "too", "zone": ""},
    ]
    found = plugin.firewall_in_zone(entries, places)
    # A zone without an interface here must not become every interface.
    assert [(e["name"], e["doors"]) for e in found] == [("ssh", ["eth0"]), ("any", []), ("too", [])]
    assert [plugin.firewall_door(e, "iifname") for e in found] == ['iifname { "eth0" } ', "", ""]
    assert plugin.firewall_chains(["eth0", "eth4"], places) == {"eth0": "zone_management", "eth4": "outward"}
    assert plugin.firewall_guarded(places, ["eth4"]) == ["bond0.20", "eth0", "eth4"]
