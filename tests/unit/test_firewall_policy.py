"""What the firewall role refuses before it touches a node."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).resolve().parents[2] / "roles/firewall/filter_plugins/firewall_policy.py"
_spec = importlib.util.spec_from_file_location("firewall_policy", PLUGIN)
assert _spec is not None
assert _spec.loader is not None
firewall_policy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(firewall_policy)

GOOD: dict[str, Any] = {
    "management_sources": ["10.0.0.0/24", "2001:db8:1::/48"],
    "ssh_port": 22,
    "interfaces": ["eth0"],
    "ingress": [{"name": "gateway", "ports": [443, "8000-8010"], "sources": ["0.0.0.0/0", "::/0"]}],
    "egress": [{"name": "time", "ports": ["123"], "protocol": "udp", "destinations": ["10.0.0.5"]}],
    "echo_sources": [],
    "log_rate": "5/second",
    "confirm_timeout_s": 60,
}


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "x", "ports": [1], "sources": ["10.0.0.0/8"], "destinations": ["10.0.0.0/8"], **changes}]


def test_a_sound_policy_has_no_faults() -> None:
    assert firewall_policy.firewall_faults(GOOD) == []


@pytest.mark.parametrize(
    ("change", "names", "remedy"),
    [
        ({"management_sources": []}, "management_sources is empty", "name the networks"),
        ({"management_sources": ["0.0.0.0/0"]}, "everywhere", "name the networks"),
        ({"management_sources": ["10.0.0.1/24"]}, "'10.0.0.1/24'", "write it like"),
        ({"management_sources": [10]}, "10", "write it like"),
        ({"echo_sources": ["ten"]}, "echo_sources has 'ten'", "write it like"),
        ({"interfaces": []}, "interfaces is empty", "name the interfaces"),
        ({"interfaces": ["lo"]}, "'lo'", "other than loopback"),
        ({"interfaces": ['eth0" accept']}, "interfaces names", "as `ip link` shows it"),
        ({"ssh_port": 0}, "ssh_port is 0", "1 to 65535"),
        ({"ssh_port": "²"}, "ssh_port", "1 to 65535"),
        ({"log_rate": "often"}, "log_rate", "5/second"),
        ({"log_rate": "5/second; accept"}, "log_rate", "5/second"),
        ({"confirm_timeout_s": 5}, "confirm_timeout_s is 5", "at least 15"),
        ({"ingress": entry(ports=[])}, "'x' has no ports", "list the ports"),
        ({"ingress": entry(ports=[70000])}, "70000", "1 to 65535"),
        ({"ingress": entry(ports=["10-9"])}, "'10-9'", "range"),
        ({"ingress": entry(ports=["22 } accept"])}, "22 } accept", "range"),
        ({"ingress": entry(sources=[])}, "has no sources", "list the networks"),
        ({"ingress": entry(sources=["10.0.0.0/33"])}, "10.0.0.0/33", "write it like"),
        ({"ingress": entry(protocol="sctp")}, "sctp", "use tcp or udp"),
        ({"ingress": entry(name='a" accept')}, "give it a name", "letters"),
        ({"ingress": entry() + entry()}, "is there twice", "its own name"),
        ({"egress": entry(destinations=["0.0.0.0/0"])}, "everywhere", "networks that are meant"),
        ({"egress": entry(destinations=["::/0"])}, "everywhere", "networks that are meant"),
        ({"egress": entry(destinations=["example.org"])}, "example.org", "write it like"),
    ],
)
def test_a_fault_is_named_with_its_remedy(change: dict[str, Any], names: str, remedy: str) -> None:
    faults = firewall_policy.firewall_faults(GOOD | change)
    assert len(faults) == 1
    assert names in faults[0]
    assert remedy in faults[0]


def test_every_fault_is_told_at_once() -> None:
    assert len(firewall_policy.firewall_faults(GOOD | {"ssh_port": 0, "interfaces": [], "management_sources": []})) == 3


def test_networks_are_split_by_family_sorted_and_merged() -> None:
    mixed = ["10.1.0.0/16", "2001:db8::/32", "10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"]
    assert firewall_policy.firewall_networks(mixed, 4) == ["10.0.0.0/8", "192.0.2.7/32"]
    assert firewall_policy.firewall_networks(mixed, 6) == ["2001:db8::/32"]


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.0.0.9", True),
        ("10.0.1.9", False),
        ("::ffff:10.0.0.9", True),
        ("fe80::1%eth0", True),
        ("2001:db8::1", False),
    ],
)
def test_a_peer_is_found_in_its_network(address: str, inside: bool) -> None:
    assert firewall_policy.firewall_holds(["10.0.0.0/24", "fe80::/10"], address) is inside


PROOF: dict[str, Any] = {
    "targets": ["192.0.2.1", "2001:db8::1"], "interval_s": 300, "segments": 64, "segment_bytes": 1 << 20, "seal_every": 12,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"targets": []}, "is empty: name addresses"),
        ({"targets": ["example.org"]}, "'example.org', which is not an address"),
        ({"targets": ["10.0.0.5"]}, "entry 'time' lets out: name another"),
        ({"interval_s": 5}, "interval_s is 5: use at least 60"),
        ({"segments": 1}, "segments is 1: use at least 2"),
        ({"segment_bytes": 10}, "segment_bytes is 10"),
        ({"seal_every": 0}, "seal_every is 0"),
    ],
)
def test_a_proof_that_would_prove_nothing_is_refused(change: dict[str, Any], words: str) -> None:
    faults = firewall_policy.firewall_proof_faults(PROOF | change, GOOD["egress"])
    assert len(faults) == (1 if words else 0)
    assert all(words in fault for fault in faults)
