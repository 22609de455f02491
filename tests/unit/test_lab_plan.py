"""Names and addresses of a lab follow from its name and from what the host already uses."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from engine.errors import InputError, ResourceError
from installer.lab.network import rules
from installer.lab.plan import POOL, check_name, free_network, names_of, nodes_of, parse_binds, release_of


@pytest.mark.parametrize("name", ["try", "mol-firewall-default-0a1b2c", "a", "a" * 40])
def test_a_host_name_label_is_a_lab_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "1a", "a_b", "a.b", "../x", "a/b", "a" * 41, "a\n"])
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "a" * 40])
def test_interface_names_fit_the_kernel_however_long_the_lab_name_is(name: str) -> None:
    names = names_of(name)
    assert len(names.bridge) <= 15
    assert len(f"vb-{names.machine(50)}") <= 15


def test_two_labs_share_no_kernel_object() -> None:
    one, other = names_of("one"), names_of("other")
    assert {one.bridge, one.table, one.machine(1)}.isdisjoint({other.bridge, other.table, other.machine(1)})


def test_the_first_free_network_skips_addresses_routes_and_labs_that_are_there() -> None:
    assert free_network([]) == IPv4Network("10.87.1.0/24")
    used = ["10.87.1.1/24", "10.87.2.128/25", "10.87.4.0/24", "192.168.0.1/16"]
    assert free_network(used) == IPv4Network("10.87.3.0/24")


def test_a_full_pool_says_so() -> None:
    with pytest.raises(ResourceError, match="no free network"):
        free_network([str(POOL)])


def test_nodes_are_numbered_from_one_and_addressed_from_eleven() -> None:
    nodes = nodes_of("try", 3, IPv4Network("10.87.9.0/24"))
    assert [(n.name, n.address) for n in nodes] == [
        ("try-1", "10.87.9.11"),
        ("try-2", "10.87.9.12"),
        ("try-3", "10.87.9.13"),
    ]


@pytest.mark.parametrize("count", [0, -1, 51])
def test_a_lab_without_nodes_or_with_too_many_is_refused(count: int) -> None:
    with pytest.raises(InputError):
        nodes_of("try", count, IPv4Network("10.87.9.0/24"))


def test_a_bind_is_resolved_before_nodes_see_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (bind,) = parse_binds([f"{tmp_path}/link:/srv/x"])
    assert (bind.source, bind.target) == (tmp_path / "real", "/srv/x")


@pytest.mark.parametrize("value", ["/tmp", "/tmp:", ":/x", "/tmp:x", "/tmp:/x:ro", "/does/not/exist:/x"])  # noqa: S108
def test_a_bind_that_cannot_be_meant_is_refused(value: str) -> None:
    with pytest.raises(InputError):
        parse_binds([value])


def test_the_rules_drop_what_enters_or_leaves_the_bridge_but_not_what_stays_on_it() -> None:
    lines = [line.strip() for line in rules(names_of("try"), "10.87.3.1").splitlines()]
    bridge = names_of("try").bridge
    forward = lines[lines.index("chain forward {") : lines.index("chain input {")]
    assert forward[2] == f'iifname "{bridge}" oifname "{bridge}" accept'
    assert forward[3].startswith(f'iifname "{bridge}" counter drop')
    assert forward[4].startswith(f'oifname "{bridge}" counter drop')
    assert any(line.startswith(f'iifname "{bridge}" ip daddr != 10.87.3.1 counter drop') for line in lines)


def test_systems_are_named_as_in_definitions() -> None:
    assert [release_of(s) for s in ("debian-12", "debian-13")] == ["bookworm", "trixie"]
    with pytest.raises(InputError, match=r"cannot make ubuntu-24\.04 nodes") as error:
        release_of("ubuntu-24.04")
    assert "debian-13" in error.value.remedy
