"""The life of a site over releases: rolled out under load, gated, taken back by itself and by hand, killed in between, and never two nodes
of the service out at once."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from installer.lab.lab import down, up
from tests.demo import Demo
from tests.e2e.fleet import Fleet, clients, ill

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
FIRST, SECOND, THIRD = "1.0.0", "1.1.0", "1.2.0"
ALL = {"batch": "100%", "per_service": 2}
STATE = "/opt/appliance/current/engine/bin/appliance-engine generation state"


@pytest.fixture(scope="module")
def fleet(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway and two nodes that serve; in the order of the inventory gpu-1, gpu-2, gw-1."""
    name = f"fleet-{os.getpid()}"
    lab = up(name, nodes=3, owner_pid=os.getpid())
    try:
        yield Fleet(demo, lab, tmp_path_factory.mktemp("fleet"), 7461, {"batch": 1})
    finally:
        down(name)


@pytest.fixture(scope="module")
def releases(fleet: Fleet) -> dict[str, Path]:
    return {version: fleet.release(version) for version in (FIRST, SECOND, THIRD)}


def named(version: str) -> str:
    return f"fleet-{version}"


# The tests below follow one site through its life; pytest runs them in this order.


def test_the_first_release_is_installed_on_all_and_serves(fleet: Fleet, releases: dict[str, Path]) -> None:
    done = fleet.install(releases[FIRST], site=fleet.site(rolling=ALL))
    assert done["good"], done["failures"]
    assert set(fleet.releases().values()) == {named(FIRST)}
    assert fleet.ask().startswith(f"{FIRST}: yes")


def test_a_second_install_asks_once_touches_no_file_and_restarts_nothing(
    fleet: Fleet, releases: dict[str, Path]
) -> None:
    """T30 by the question that skips nodes; by all roles it is tests/e2e/test_install.py."""
    files, units = {n: fleet.files(n) for n in fleet.names}, {n: fleet.units(n) for n in fleet.names}
    quick = fleet.install(releases[FIRST])
    assert sorted(quick["idle"]) == sorted(fleet.names)
    assert "nodes" not in quick["phases_s"]  # Ansible was not even started
    for name in fleet.names:
        assert fleet.files(name) ^ files[name] == set()
        assert fleet.units(name) == units[name]


def test_a_plan_says_what_an_upgrade_does_and_the_install_holds_to_it(fleet: Fleet, releases: dict[str, Path]) -> None:
    """T31 for an upgrade: on one node, the tasks and files of the plan are those that then change."""
    fleet.run("import", "--depot", fleet.state / "depot", releases[SECOND])
    before = fleet.files("gpu-1")
    words = [
        "-i",
        fleet.site(),
        *fleet.places("depot", "ca", "runs", "site-keys"),
        "--release",
        named(SECOND),
        "--limit",
        "gpu-1",
    ]
    plan = fleet.run("plan", *words)
    assert fleet.files("gpu-1") == before
    node = plan["nodes"][0]
    assert (node["before"], node["leaves"], plan["batches"]) == (named(FIRST), ["tiny"], [["gpu-1"]])
    assert {f["path"] for f in node["files"]} >= {
        "/etc/systemd/system/appliance-vllm@.service",
        "/etc/appliance/vllm/tiny.yaml",
    }
    assert [c["name"] for c in plan["content"] if c["kind"] == "wheels"] == ["runtime"]
    done = fleet.install(named(SECOND), "--limit", "gpu-1", "--plan", plan["digest"])
    assert done["good"] and f"sha256:{done['plan']}" == plan["digest"]
    assert set(node["tasks"]) <= set(done["nodes"]["gpu-1"]["changes"])
    changed = {line.split()[0] for line in fleet.files("gpu-1") - before}
    assert {f["path"] for f in node["files"]} <= changed
    assert fleet.releases()["gpu-1"] == named(SECOND)


def test_a_gate_that_fails_on_the_second_of_three_takes_that_node_back_and_leaves_the_third(
    fleet: Fleet, releases: dict[str, Path]
) -> None:
    ill(fleet, "gpu-2", SECOND, "other")
    with clients(fleet) as seen:
        done = fleet.install(releases[SECOND], ok=(5,))
    ill(fleet, "gpu-2", SECOND, "")
    assert done["idle"] == ["gpu-1"]  # upgraded before
    assert [f["node"] for f in done["failures"]] == ["gpu-2"]
    assert "token 1 is 'no' and was 'yes'" in done["failures"][0]["reason"]
    assert done["rollout"]["restored"]["gpu-2"]["good"]
    assert done["rollout"]["left_alone"] == ["gw-1"]
    assert fleet.releases() == {"gpu-1": named(SECOND), "gpu-2": named(FIRST), "gw-1": named(FIRST)}
    assert fleet.on("gpu-2", "systemctl is-active appliance-nginx appliance-vllm@tiny").split() == ["active", "active"]
    kept = done["rollout"]["restored"]["gpu-2"]["diagnostics"]
    assert "journal.txt" in fleet.on("gpu-2", f"tar -tzf {kept}")
    assert fleet.on("gpu-2", f"stat -c %a {kept}") == "600"
    # A node left, failed and came back, and nobody noticed.
    assert seen.failed == [] and sum(seen.said.values()) > 10


def test_a_control_host_that_is_killed_is_completed_by_the_next_run(fleet: Fleet, releases: dict[str, Path]) -> None:
    running = fleet.start(releases[SECOND])
    deadline = time.monotonic() + 400
    while fleet.on("gpu-2", "systemctl is-active appliance-nginx", check=False) == "active":
        assert time.monotonic() < deadline and running.poll() is None, "the node was never drained"
        time.sleep(0.2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert set(json.loads((fleet.state / "runs/out-of-service.json").read_text())) == {"gpu-2"}
    assert fleet.ask().startswith(f"{SECOND}:")  # gpu-1 serves
    done = fleet.install(releases[SECOND])
    assert done["good"], done["failures"]
    assert done["rollout"]["batches"][0] == ["gpu-2"]
    assert set(fleet.releases().values()) == {named(SECOND)}
    assert json.loads((fleet.state / "runs/out-of-service.json").read_text()) == {}


def test_two_operators_at_once_are_told_who_was_first(fleet: Fleet, releases: dict[str, Path]) -> None:
    running = fleet.start(releases[SECOND], "--check", "--full", "--limit", "gw-1")
    lock, deadline = fleet.state / "runs/.lock", time.monotonic() + 60
    try:
        while str(running.pid) not in lock.read_text():
            assert time.monotonic() < deadline and running.poll() is None, "the first never began"
            time.sleep(0.05)
        refused = fleet.install(releases[SECOND], ok=(6,))
        assert (
            "another install is running" in refused["error"]["what"]
            and f"process {running.pid}" in refused["error"]["what"]
        )
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # it only looks
        running.wait()


def test_what_moved_on_a_node_is_seen_and_mended(fleet: Fleet, releases: dict[str, Path]) -> None:
    for command, word in (
        (
            "echo '# by hand' >> /etc/appliance/nginx/nginx.conf",
            "/etc/appliance/nginx/nginx.conf is not as it was kept",
        ),
        ("systemctl stop appliance-vllm@tiny", "appliance-vllm@tiny.service does not run"),
    ):
        fleet.on("gpu-2", command)
        assert word in fleet.on("gpu-2", STATE)
    fleet.on("gpu-1", "nft flush ruleset")
    assert "the firewall's rules in force are" in fleet.on("gpu-1", STATE)
    fleet.on("gpu-1", "systemctl restart appliance-firewall")
    done = fleet.install(releases[SECOND])
    assert done["good"] and sorted(done["idle"]) == ["gpu-1", "gw-1"]
    assert json.loads(fleet.on("gpu-2", STATE))["drift"] == []


def test_one_command_takes_the_site_back_and_it_is_timed(fleet: Fleet) -> None:
    """T33: N-1 after N. That the switch takes a second at most and a token a minute is measured by `./run bench operations`."""
    refused = fleet.rollback("--to", "fleet-9.9.9", ok=(5,))
    assert set(refused["refused"]) == set(fleet.names) and refused["nodes"] == {}
    assert set(fleet.releases().values()) == {named(SECOND)}
    done = fleet.rollback()
    assert done["good"], done
    assert set(fleet.releases().values()) == {named(FIRST)}
    assert fleet.ask().startswith(f"{FIRST}:")
    assert all(0 < node["switched_s"] <= node["seconds"] for node in done["nodes"].values()), done


def test_from_two_releases_back_to_the_newest(fleet: Fleet, releases: dict[str, Path]) -> None:
    """N-2 to N, on one node; and back again, over the release between that it kept."""
    done = fleet.install(releases[THIRD], "--limit", "gpu-1")
    assert done["good"], done["failures"]
    assert fleet.releases() == {"gpu-1": named(THIRD), "gpu-2": named(FIRST), "gw-1": named(FIRST)}
    assert fleet.rollback("--to", named(SECOND), "--limit", "gpu-1")["good"]
    assert fleet.releases()["gpu-1"] == named(SECOND)


def test_a_node_that_dies_in_the_middle_of_a_phase_is_completed_by_the_next_run(
    fleet: Fleet, releases: dict[str, Path]
) -> None:
    """It loses power while it gets its content, and again while it is being changed; nobody else notices. Then its certificate runs out."""
    for dies_when in (
        f"test -d /opt/appliance/releases/{named(THIRD)}",
        "! systemctl is-active --quiet appliance-nginx",
    ):
        if fleet.releases()["gpu-2"] == named(
            THIRD
        ):  # it came back so soon that the run went on: there must be something to do
            assert fleet.rollback("--limit", "gpu-2")["good"]
        running = fleet.start(releases[THIRD], "--limit", "gpu-2")
        deadline = time.monotonic() + 300
        while fleet.on("gpu-2", f"{dies_when} && echo yes || true", check=False) != "yes":
            assert time.monotonic() < deadline and running.poll() is None, f"never: {dies_when}"
            time.sleep(0.2)
        fleet.on("gpu-2", "systemctl reboot --force --force", check=False)
        running.wait(300)
        while fleet.on("gpu-2", "systemctl is-system-running --wait", check=False) not in ("running", "degraded"):
            assert time.monotonic() < deadline + 300
            time.sleep(0.5)
        assert ": yes" in fleet.ask()  # of one release or the other, but answered
    key = ec.generate_private_key(ec.SECP256R1())
    name, then = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gpu-2")]), datetime(2020, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), then, then + timedelta(days=1)
    )
    expired = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    fleet.on("gpu-2", f"echo {shlex.quote(expired)} > /etc/appliance/pki/node.crt")
    assert any("certificate" in d for d in json.loads(fleet.on("gpu-2", STATE))["drift"])
    done = fleet.install(releases[THIRD], "--limit", "gpu-2")
    assert done["good"], done["failures"]
    assert fleet.releases()["gpu-2"] == named(THIRD)
    assert json.loads(fleet.on("gpu-2", STATE))["drift"] == []
    assert json.loads((fleet.state / "runs/out-of-service.json").read_text()) == {}
