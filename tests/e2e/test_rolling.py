"""The life of a site over releases: rolled out under load, gated, taken back by itself and by hand, killed in between, and never two nodes
of the service out at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.lab.lab import down, up
from tests.demo import Demo
from tests.e2e.fleet import Fleet, clients, ill

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]
FIRST, SECOND, THIRD = "1.0.0", "1.1.0", "1.2.0"
ALL = {"batch": "100%", "per_service": 3}


@pytest.fixture(scope="module")
def fleet(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway and three nodes that serve."""
    name = f"fleet-{os.getpid()}"
    lab = up(name, nodes=4, owner_pid=os.getpid())
    try:
        yield Fleet(demo, lab, tmp_path_factory.mktemp("fleet"), 7461, {"batch": 1})
    finally:
        down(name)


@pytest.fixture(scope="module")
def releases(fleet: Fleet) -> dict[str, Path]:
    return {version: fleet.release(version) for version in (FIRST, SECOND, THIRD)}


# The tests below follow one site through its life; pytest runs them in this order.


def test_the_first_release_is_installed_on_all_and_serves(fleet: Fleet, releases: dict[str, Path]) -> None:
    done = fleet.install(
        releases[FIRST], site=fleet.site(rolling={"batch": "100%", "per_service": 3, "max_unavailable": 4})
    )
    assert done["good"], done["failures"]
    assert set(fleet.releases().values()) == {f"fleet-{FIRST}"}
    assert fleet.ask().startswith(f"{FIRST}: yes")


def test_a_second_install_touches_no_file_and_restarts_nothing(fleet: Fleet, releases: dict[str, Path]) -> None:
    """T30, twice: by the question that skips nodes, and by all roles."""
    files, units = {n: fleet.files(n) for n in fleet.names}, {n: fleet.units(n) for n in fleet.names}
    quick = fleet.install(releases[FIRST])
    assert sorted(quick["idle"]) == sorted(fleet.names)
    full = fleet.install(releases[FIRST], "--full", site=fleet.site(rolling=ALL))
    assert full["idle"] == [] and {n: s["changes"] for n, s in full["nodes"].items()} == {n: [] for n in fleet.names}
    for name in fleet.names:
        assert fleet.files(name) ^ files[name] == set()
        assert fleet.units(name) == units[name]


def test_a_gate_that_fails_on_the_second_of_three_takes_that_node_back_and_leaves_the_third(
    fleet: Fleet, releases: dict[str, Path]
) -> None:
    ill(fleet, "gpu-2", SECOND, "other")
    with clients(fleet) as seen:
        done = fleet.install(releases[SECOND], ok=(5,))
    assert [f["node"] for f in done["failures"]] == ["gpu-2"]
    assert "token 1 is 'no' and was 'yes'" in done["failures"][0]["reason"]
    assert done["rollout"]["restored"]["gpu-2"]["good"]
    assert done["rollout"]["left_alone"] == ["gpu-3", "gw-1"] or "gpu-3" in done["rollout"]["left_alone"]
    now = fleet.releases()
    assert (now["gpu-1"], now["gpu-2"], now["gpu-3"]) == (f"fleet-{SECOND}", f"fleet-{FIRST}", f"fleet-{FIRST}")
    assert fleet.on("gpu-2", "systemctl is-active appliance-nginx appliance-vllm@tiny").split() == ["active", "active"]
    kept = done["rollout"]["restored"]["gpu-2"]["diagnostics"]
    assert "journal.txt" in fleet.on("gpu-2", f"tar -tzf {kept}")
    assert seen.failed == [] and seen.said.get(FIRST, 0) > 10
    ill(fleet, "gpu-2", SECOND, "")


def test_the_same_command_completes_what_stopped_under_load_with_no_request_lost(
    fleet: Fleet, releases: dict[str, Path]
) -> None:
    with clients(fleet) as seen:
        done = fleet.install(releases[SECOND])
        fleet.ask()
    assert done["good"], done["failures"]
    assert "gpu-1" in done["idle"]  # it had been upgraded already
    assert set(fleet.releases().values()) == {f"fleet-{SECOND}"}
    # The only gateway itself was changed, too: while it drains nobody can be answered. See docs/operations.md.
    assert seen.said.get(SECOND, 0) > 0


def test_one_command_takes_the_site_back_and_it_is_timed(fleet: Fleet) -> None:
    """T33: N-1 after N; the switch at most a second, a proving token within a minute."""
    done = fleet.rollback()
    assert done["good"], done
    assert set(fleet.releases().values()) == {f"fleet-{FIRST}"}
    assert fleet.ask().startswith(f"{FIRST}:")
    assert {n for n, node in done["nodes"].items() if node["switched_s"] > 1 or node["seconds"] > 60} == set()


def test_a_node_that_keeps_no_such_release_refuses_before_anything_changes(fleet: Fleet) -> None:
    refused = fleet.rollback("--to", "fleet-9.9.9", ok=(5,))
    assert set(refused["refused"]) == set(fleet.names) and refused["nodes"] == {}
    assert set(fleet.releases().values()) == {f"fleet-{FIRST}"}


def test_from_two_releases_back_to_the_newest(fleet: Fleet, releases: dict[str, Path]) -> None:
    """N-2 to N, with several nodes at once where the site allows it."""
    site = fleet.site(rolling={"batch": [1, 2], "per_service": 2, "max_unavailable": 2})
    done = fleet.install(releases[THIRD], site=site)
    assert done["good"], done["failures"]
    assert [len(b) for b in done["rollout"]["batches"]] == [1, 2, 1]
    assert fleet.ask().startswith(f"{THIRD}:")
    assert set(fleet.releases().values()) == {f"fleet-{THIRD}"}


def test_a_control_host_that_is_killed_is_completed_by_the_next_run(fleet: Fleet, releases: dict[str, Path]) -> None:
    fleet.rollback("--to", f"fleet-{FIRST}", "--at-once")
    running = fleet.start(releases[THIRD])
    deadline = time.monotonic() + 300
    while fleet.on("gpu-1", "systemctl is-active appliance-nginx", check=False) == "active":
        assert time.monotonic() < deadline and running.poll() is None, "the first node was never drained"
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert fleet.ask().startswith(f"{FIRST}:")  # the other nodes serve
    done = fleet.install(releases[THIRD])
    assert done["good"], done["failures"]
    assert set(fleet.releases().values()) == {f"fleet-{THIRD}"}


def test_two_operators_at_once_are_told_who_was_first(fleet: Fleet, releases: dict[str, Path]) -> None:
    running = fleet.start(releases[THIRD], "--full")
    deadline = time.monotonic() + 60
    try:
        while True:
            refused = fleet.install(releases[THIRD], ok=(0, 6))
            if "error" in refused:
                break
            assert time.monotonic() < deadline
        assert (
            "another install is running" in refused["error"]["what"]
            and f"process {running.pid}" in refused["error"]["what"]
        )
    finally:
        assert running.wait(300) == 0


def test_what_moved_on_a_node_is_seen_and_mended(fleet: Fleet, releases: dict[str, Path]) -> None:
    for name, command, word in (
        (
            "gpu-1",
            "echo '# by hand' >> /etc/appliance/nginx/nginx.conf",
            "/etc/appliance/nginx/nginx.conf is not as it was kept",
        ),
        ("gpu-2", "systemctl stop appliance-vllm@tiny", "appliance-vllm@tiny.service does not run"),
        ("gpu-3", "nft flush ruleset", "the firewall's rules"),
    ):
        fleet.on(name, command)
        told = fleet.on(name, "/opt/appliance/current/engine/bin/appliance-engine generation state")
        assert word in told
    done = fleet.install(releases[THIRD])
    assert done["good"] and done["idle"] == ["gw-1"]
    assert fleet.install(releases[THIRD])["idle"] == fleet.names or not fleet.install(releases[THIRD])["rollout"]
