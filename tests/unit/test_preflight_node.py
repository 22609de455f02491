"""System, clock, disks and network of a node against what a release needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.preflight import facts as f
from engine.preflight import judge_network
from engine.preflight.expectation import Expectation, SpaceNeed
from engine.preflight.judge import FIXABLE, READY, UNSUPPORTED, judge, verdict
from tests.nodefacts import BLOBS, RELEASES, checks, expected, findings, needs_gpu, node, space

GOOD = node()
assert GOOD.system and GOOD.clock and GOOD.storage and GOOD.network and GOOD.firmware and GOOD.memory
SYSTEM, CLOCK, STORAGE, NETWORK, FIRMWARE, MEMORY = (
    GOOD.system, GOOD.clock, GOOD.storage, GOOD.network, GOOD.firmware, GOOD.memory,
)  # fmt: skip


def firmware(**changes: Any) -> f.Facts:
    return node(firmware=replace(FIRMWARE, **changes))


def network(**changes: Any) -> f.Facts:
    return node(network=replace(NETWORK, **changes))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"os_id": "debian", "os_version": "12"}, "os"),
        ({"machine": "aarch64"}, "machine"),
        ({"python": "3.11.2"}, "python"),
        ({"systemd": False}, "systemd"),
    ],
)
def test_what_only_another_system_would_mend_is_not_supported(change: dict[str, Any], check: str) -> None:
    facts = node(system=replace(SYSTEM, **change))
    assert checks(facts) == [(check, "fail")]
    assert verdict(judge(facts, expected())) == UNSUPPORTED


def test_another_kernel_is_fixable_and_an_open_one_is_not_compared() -> None:
    facts = node(system=replace(SYSTEM, kernel="6.8.0-31-generic"))
    assert verdict(judge(facts, expected())) == FIXABLE
    assert "linux-image-6.8.0-90-generic" in findings(facts)[0].remedy
    assert findings(facts, expected(kernel="")) == []


def test_a_cpu_service_needs_avx2() -> None:
    facts = node(system=replace(SYSTEM, vector=False))
    assert findings(facts) == []
    assert "AVX2" in findings(facts, expected(vector=True))[0].what


def test_memory_must_hold_what_the_services_may_use() -> None:
    assert checks(node(), expected(memory_bytes=3 << 40)) == [("memory", "fail")]
    idle = node(memory=replace(MEMORY, huge_pages=(f.HugePages(1 << 30, 600, 600),)))
    assert checks(idle) == [("huge-pages", "warn")]
    used = node(memory=replace(MEMORY, huge_pages=(f.HugePages(1 << 30, 600, 10),)))
    assert checks(used) == []


def test_gpus_without_a_numa_node_are_named_on_machines_with_several() -> None:
    assert GOOD.pci
    lost = tuple(replace(d, numa_node=-1) for d in GOOD.pci[:1]) + GOOD.pci[1:]
    assert "0000:00:00.0" in findings(node(pci=lost))[0].what
    assert checks(node(pci=lost, memory=replace(MEMORY, numa_nodes=1))) == []


@pytest.mark.parametrize(
    ("mode", "facts", "found"),
    [
        ("off", firmware(secure_boot=True), [("secure-boot", "fail")]),
        ("off", firmware(secure_boot=False), []),
        ("mok", firmware(mok_list=False, mok_subjects=()), [("secure-boot", "fail")]),
        ("mok", firmware(mokutil=False, mok_subjects=()), [("secure-boot", "warn")]),
        ("mok", firmware(), []),
        ("signed", firmware(secure_boot=False), [("secure-boot", "warn")]),
        ("signed", firmware(efi=False, secure_boot=None), []),
        ("mok", firmware(secure_boot=None), [("secure-boot", "warn")]),
    ],
)
def test_secure_boot_fits_how_modules_are_signed(mode: str, facts: f.Facts, found: list[tuple[str, str]]) -> None:
    assert checks(facts, needs_gpu(secure_boot=mode)) == found


@pytest.mark.parametrize(
    ("offset", "error", "found"),
    [
        (0.5, 0.3, []),
        (2.4, 0.5, []),
        (3.0, 0.5, [("clock-offset", "warn")]),
        (-3.0, 0.5, [("clock-offset", "warn")]),
        (599.0, 0.5, [("clock-offset", "warn")]),
        (-4000.0, 0.5, [("clock-offset", "fail")]),
    ],
)
def test_the_clock_is_judged_only_as_far_as_it_was_measured(
    offset: float, error: float, found: list[tuple[str, str]]
) -> None:
    assert checks(node(), expected(offset_s=offset, offset_error_s=error)) == found


def test_clocks_that_nobody_keeps_or_that_run_wild_are_warnings() -> None:
    assert checks(node(clock=replace(CLOCK, state=5, synchronized=False))) == [("clock-sync", "warn")]
    assert checks(node(clock=replace(CLOCK, state=None, synchronized=None))) == [("clock-sync", "warn")]
    assert checks(node(clock=replace(CLOCK, drift_ppm=-300.0))) == [("clock-sync", "warn")]
    chip = findings(node(clock=replace(CLOCK, rtc_offset_s=-86400.0)))
    assert [x.check for x in chip] == ["clock-chip"] and "-86400 s" in chip[0].what


def test_needs_on_one_file_system_are_added_up_and_on_two_are_not() -> None:
    """The invariant: two paths that would each fit but not both are refused when they share a disk."""
    needs = (SpaceNeed(BLOBS, 60 * 10**9, "content"), SpaceNeed(RELEASES, 50 * 10**9, "runtime"))
    one = node(storage=replace(STORAGE, spaces=(space(BLOBS, free_bytes=100 * 10**9), space(RELEASES, free_bytes=100 * 10**9))))  # fmt: skip
    found = findings(one, expected(spaces=needs))
    assert [(x.check, x.severity) for x in found] == [("space", "fail")]
    assert "/ has 100.0 GB free; 110.0 GB are needed (content 60.0 GB, runtime 50.0 GB)" in found[0].what
    assert found[0].remedy.startswith("Free 10.3 GB on /")
    other = space(RELEASES, mount="/opt", device="254:1", free_bytes=100 * 10**9)
    two = node(storage=replace(STORAGE, spaces=(space(BLOBS, free_bytes=100 * 10**9), other)))
    assert checks(two, expected(spaces=needs)) == []


def test_a_file_system_that_cannot_be_written_or_has_no_inodes_fails() -> None:
    read_only = node(storage=replace(STORAGE, spaces=(space(BLOBS, read_only=True), space(RELEASES, read_only=True))))
    assert checks(read_only) == [("space", "fail")]
    crowded = node(storage=replace(STORAGE, spaces=(space(BLOBS, free_inodes=5), space(RELEASES, free_inodes=5))))
    assert checks(crowded) == [("space", "fail")]
    endless = node(storage=replace(STORAGE, spaces=(space(BLOBS, free_inodes=0), space(RELEASES, free_inodes=0))))
    assert checks(endless) == [], "btrfs and others count no inodes"
    silent = node(storage=replace(STORAGE, spaces=()))
    assert checks(silent) == [("space", "fail")] * 2


def test_slow_disks_are_warnings_with_the_time_a_model_would_take() -> None:
    assert STORAGE.disk
    slow = replace(STORAGE.disk, fsync_p99_ms=250.0, read_bytes_per_s=100e6)
    found = findings(node(storage=replace(STORAGE, disk=slow)))
    assert [(x.check, x.severity) for x in found] == [("disk-sync", "warn"), ("disk-read", "warn")]
    assert "23 minutes" in found[1].what
    assert checks(node(storage=replace(STORAGE, disk=replace(STORAGE.disk, read_bytes_per_s=0.0)))) == [
        ("disk-read", "warn")
    ]
    none = replace(STORAGE.disk, fsync_p50_ms=None, fsync_p99_ms=None, note="cannot make a file without a name: x")
    assert "cannot make a file" in findings(node(storage=replace(STORAGE, disk=none)))[0].what


def test_a_taken_port_names_its_holder_and_our_own_unit_may_hold_it() -> None:
    apache = f.Listener("tcp", "0.0.0.0", 8444, 812, "apache2", "apache2.service")  # noqa: S104
    found = findings(network(listeners=(apache,)))
    assert [(x.check, x.severity) for x in found] == [("ports", "fail")]
    assert "apache2 (process 812, apache2.service)" in found[0].what
    assert checks(network(listeners=(replace(apache, unit="appliance-nginx.service"),))) == []
    assert checks(network(listeners=(replace(apache, protocol="udp"),))) == []
    assert "somebody at 0.0.0.0" in findings(network(listeners=(replace(apache, pid=0),)))[0].what


@pytest.mark.parametrize(
    ("way", "want", "severity", "what"),
    [
        (f.Reach("", "silent", "no answer within 3 s"), expected(), "fail", "does not reach 192.0.2.5:7443: silent"),
        (f.Reach("", "refused", "Connection refused"), expected(), "fail", "Connection refused"),
        (f.Reach("", "wrong", ""), expected(), "fail", "something else than this control host answers"),
        (None, expected(), "fail", "not tried"),
        (None, expected(depot_trouble="this host cannot listen"), "warn", "this host cannot listen"),
    ],
)
def test_the_way_to_the_depot_must_lead_to_this_control_host(
    way: f.Reach | None, want: Expectation, severity: str, what: str
) -> None:
    found = findings(network(control=way), want)
    assert [(x.check, x.severity) for x in found] == [("depot", severity)] and what in found[0].what


def test_a_way_out_fails_and_names_that_resolve_are_a_warning() -> None:
    out = network(outside=(f.Reach("198.51.100.1:53", "connected", ""),), default_route=True)
    assert checks(out) == [("outside", "fail")]
    names = network(resolved_outside=("example.com",), nameservers=("192.0.2.53",))
    assert "192.0.2.53" in findings(names)[0].what and checks(names) == [("names", "warn")]
    assert checks(network(own_addresses=())) == [("own-name", "warn")]


LEASE = f.Lease("eth0", "192.0.2.9", 24, 3000, "192.0.2.1")
SLAAC = f.Lease("eth0", "2001:db8::9", 64, 3000, "")


@pytest.mark.parametrize(
    ("lease", "want", "severity", "remedy"),
    [
        (LEASE, Expectation(), "fail", "destinations: [192.0.2.1, 255.255.255.255], ports: [67], protocol: udp"),
        (LEASE, Expectation(dhcp=("192.0.2.1",)), "fail", "255.255.255.255"),  # after a restart it asks everybody
        (LEASE, Expectation(dhcp=("192.0.2.8", "255.255.255.255/32")), "fail", "192.0.2.1"),
        (LEASE, Expectation(dhcp=("192.0.2.0/24", "255.255.255.255/32")), "pass", ""),
        (replace(LEASE, server=""), Expectation(), "fail", "ADDRESS OF THE SERVER"),
        (replace(LEASE, server=""), Expectation(dhcp=("192.0.2.0/24", "255.255.255.255")), "pass", ""),
        (replace(LEASE, server="no address"), Expectation(dhcp=("255.255.255.255",)), "pass", ""),
        (SLAAC, Expectation(), "fail", "appliance_firewall_router_advertisements: true"),
        (SLAAC, Expectation(router_advertisements=True), "pass", ""),
        (replace(SLAAC, prefix=128), Expectation(router_advertisements=True), "fail", "static address."),
    ],
)
def test_an_address_that_the_firewall_would_let_run_out_is_named(
    lease: f.Lease, want: Expectation, severity: str, remedy: str
) -> None:
    found = list(judge_network.leases(network(leases=(lease,)), want))
    assert [x.severity for x in found] == [severity] and remedy in found[0].remedy
    assert lease.interface in found[0].what and lease.address in found[0].what


@pytest.mark.parametrize(("part", "severity"), [("nvml", "fail"), ("storage", "fail"), ("memory", "warn")])
def test_a_part_that_could_not_be_looked_at_is_never_taken_for_good(part: str, severity: str) -> None:
    facts = replace(node(troubles={part: "did not end in time"}), **{part: None})  # type: ignore[arg-type]
    assert ("looked-at", severity) in checks(facts)
    silent = replace(node(), **{part: None})  # type: ignore[arg-type]
    assert (("looked-at", "fail") in checks(silent)) == (severity == "fail")


def test_empty_facts_are_not_ready() -> None:
    assert verdict(judge(f.Facts(), Expectation())) == FIXABLE
    assert verdict(judge(node(), Expectation(gpu=None))) == READY
