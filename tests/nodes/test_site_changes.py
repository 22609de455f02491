"""What happens to a running site between releases: a node joins, its machine is replaced, the model changes and its disk comes back, engine
and installer are of different versions, a node leaves. Clients ask all the time and notice nothing.

The tests follow one site through its life; pytest runs them in this order. docs/operations.md has a chapter for each.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import installer
from installer.lab.lab import down, up
from installer.pki import Authority
from installer.site.ledger import Ledger
from tests.demo import TREE, Demo
from tests.e2e.fleet import Fleet, clients

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
FIRST, SECOND = "fleet-1.0.0", "fleet-1.1.0"
ENGINE = "/opt/appliance/current/engine/lib/python3.11/site-packages"
SERVING = "appliance-vllm@* appliance-nginx.service"
OURS = "/opt/appliance /etc/appliance /var/lib/appliance /var/lib/appliance-nginx /etc/systemd/system/appliance-* /root/.ansible"
# A machine that comes out of its box with the name and address of another: nothing of ours, and an SSH host key of its own.
ANOTHER_MACHINE = (
    "systemctl stop 'appliance-*.timer' 'appliance-*.socket' 'appliance-*.service' 'appliance-*.path'; "
    f"rm -rf {OURS}; systemctl daemon-reload; systemctl reset-failed; "
    "for t in $(nft list tables | awk '/appliance/ {print $2 \":\" $3}'); do nft delete table ${t%:*} ${t#*:}; done; "
    "rm -f /etc/ssh/ssh_host_*; ssh-keygen -A > /dev/null; systemctl restart ssh; cat /etc/ssh/ssh_host_ed25519_key.pub"
)


@dataclass
class Changing(Fleet):
    """A fleet whose inventory has only some of the lab's nodes."""

    members: list[str] = field(default_factory=list)

    def site(self, name: str = "site", **changes: Any) -> Path:
        where = super().site(name, **changes)
        hosts = yaml.safe_load((where / "hosts.yml").read_text())
        for group in hosts["all"]["children"].values():
            group["hosts"] = {n: h for n, h in group["hosts"].items() if n in self.members}
        (where / "hosts.yml").write_text(yaml.safe_dump(hosts))
        return where

    def certificates(self, node: str) -> dict[str, bool]:
        """Serials of a node's certificates, and whether each is revoked."""
        register = Authority(self.state / "ca").register()
        return {e.serial: bool(e.revoked) for e in register if (e.kind, e.name) == ("node", node)}

    def known_host(self, node: str, key: str) -> None:
        """What an operator does after comparing the fingerprint at the console of a machine."""
        lines = self.lab.known_hosts.read_text().splitlines()
        names = next(line.split()[0] for line in lines if self.node(node).address in line.split()[0].split(","))
        kept = [line for line in lines if line.split()[0] != names]
        self.lab.known_hosts.write_text("\n".join([*kept, f"{names} {' '.join(key.split()[:2])}"]) + "\n")


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """Keys and a model alone: this site has bundles of its own."""
    work = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    try:
        made = Demo(work, work / "dist")
        made.appliance("model", "demo", TREE / "build/demo/tiny")
        made.appliance("keys", "init")
        yield made
    finally:
        shutil.rmtree(work)


@pytest.fixture(scope="module")
def fleet(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    """A gateway and two nodes that serve, of which the second is not in the inventory yet."""
    name = f"changes-{os.getpid()}"
    lab = up(name, nodes=3, owner_pid=os.getpid())
    try:
        place = tmp_path_factory.mktemp("changes")
        yield Changing(demo, lab, place, 7467, {"batch": "100%", "per_service": 1}, members=["gw-1", "gpu-1"])
    finally:
        down(name)


@pytest.fixture(scope="module")
def other_model(fleet: Changing) -> Path:
    """The tiny model with other weights: another file of the same size."""
    folder = fleet.work / "other"
    shutil.copytree(TREE / "build/demo/tiny", folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def releases(fleet: Changing, other_model: Path) -> dict[str, Path]:
    return {FIRST: fleet.release("1.0.0"), SECOND: fleet.release("1.1.0", model=("other", other_model))}


def serve_other(fleet: Changing) -> dict[str, Any]:
    """The site's services with the model of the second release, under the name that clients know."""
    site = yaml.safe_load((fleet.site("read") / "group_vars/all/site.yml").read_text())["appliance_site"]
    return {"services": [s | {"model": "other"} for s in site["services"]]}


def test_a_node_joins_and_only_it_and_the_gateway_change(fleet: Changing, releases: dict[str, Path]) -> None:
    """The site runs a release that is not the newest in the depot: that asks nobody for the reason of a downgrade."""
    assert fleet.install(releases[FIRST])["good"]
    fleet.run("import", "--depot", fleet.state / "depot", releases[SECOND])
    fleet.members.append("gpu-2")
    words = ("-i", fleet.site(), *fleet.places("depot", "ca", "runs", "site-keys"), "--release", FIRST)
    plan = fleet.run("plan", *words)
    new = next(n for n in plan["nodes"] if n["node"] == "gpu-2")
    assert new["blind"] and new["before"] == "" and [n["leaves"] for n in plan["nodes"]] == [[], [], []]
    assert plan["batches"][0] == ["gpu-2"]  # ready before the gateway is told of it
    units, files = fleet.units("gpu-1", SERVING), fleet.files("gpu-1")
    with clients(fleet) as seen:
        done = fleet.install(FIRST)
    assert done["good"], done["failures"]
    assert done["rollout"]["batches"][0] == ["gpu-2"]
    # Nodes relay content to each other, so the rules of the others name the new one. What serves goes on.
    assert {c.partition(":")[0] for c in done["nodes"]["gpu-1"]["changes"]} <= {"firewall", "node"}
    assert fleet.units("gpu-1", SERVING) == units
    moved = {line.split()[0] for line in fleet.files("gpu-1") ^ files}
    assert {m for m in moved if not m.startswith(("/opt/appliance/generations", "/etc/appliance/firewall"))} == set()
    assert f"{fleet.node('gpu-2').address}:" in fleet.on("gw-1", "cat /etc/appliance/nginx/nginx.conf")
    assert seen.failed == [] and sum(seen.said.values()) > 10
    assert fleet.releases() == dict.fromkeys(fleet.names, FIRST)


def test_another_machine_under_the_same_name_is_refused_until_the_first_is_retired(fleet: Changing) -> None:
    key = fleet.on("gpu-2", ANOTHER_MACHINE)
    Ledger(fleet.state / "runs").take_out({"gpu-2": ["tiny"]}, "its disk died")
    pinned = (fleet.state / "evidence/egress/gpu-2.pub").read_text()
    seen = fleet.run(
        "status", "-i", fleet.site(), "--limit", "gpu-2", *fleet.places("depot", "ca", "runs", "site-keys"), ok=(5,)
    )
    assert "host key" in json.dumps(seen["nodes"]) and "ssh-keygen -R" in json.dumps(seen["nodes"])
    fleet.known_host("gpu-2", key)
    refused = fleet.install(FIRST, "--limit", "gpu-2", ok=(5,))
    assert [f["node"] for f in refused["failures"]] == ["gpu-2"]
    assert "appliance retire gpu-2 -i SITE" in refused["failures"][0]["reason"]
    assert (fleet.state / "evidence/egress/gpu-2.pub").read_text() == pinned
    assert fleet.ask().startswith("1.0.0: ")  # the others serve

    before = set(fleet.certificates("gpu-2"))
    where = ("-i", fleet.site(), *fleet.places("ca", "runs"), "--evidence", fleet.state / "evidence")
    fleet.run("retire", "gpu-2", *where, "--yes")
    assert all(fleet.certificates("gpu-2").values()) and "gpu-2" not in Ledger(fleet.state / "runs").out
    done = fleet.install(FIRST)
    assert done["good"], done["failures"]
    now = fleet.certificates("gpu-2")
    assert [revoked for serial, revoked in now.items() if serial not in before] == [False]
    assert (fleet.state / "evidence/egress/gpu-2.pub").read_text() != pinned
    evidence = fleet.run("evidence", "egress", "-i", fleet.site(), "--evidence", fleet.state / "evidence")
    assert {n["node"]: n["good"] for n in evidence["nodes"]} == dict.fromkeys(fleet.names, True)
    assert fleet.ask().startswith("1.0.0: ")


def test_the_model_changes_and_the_disk_of_the_old_one_comes_back(fleet: Changing, other_model: Path) -> None:
    weights = TREE / "build/demo/tiny/model.safetensors"
    old, size = _sha256(weights), weights.stat().st_size
    assert old != _sha256(other_model / "model.safetensors")
    site = fleet.site("other", **serve_other(fleet))
    with clients(fleet) as seen:
        done = fleet.install(SECOND, site=site)
    assert done["good"], done["failures"]
    # The only gateway says when to ask again while it changes itself.
    assert [f for f in seen.failed if " 503: " not in f] == [] and "1.1.0" in seen.said
    count = f"find /var/lib/appliance/blobs -name {old} | wc -l; ls -d /opt/appliance/releases/* | wc -l"
    assert fleet.on("gpu-1", count).split() == ["1", "2"]  # kept to go back to

    would = fleet.run("generations", "prune", "-i", site, "--check")
    assert fleet.on("gpu-1", count).split() == ["1", "2"]
    gone = fleet.run("generations", "prune", "-i", site, "--runs", fleet.state / "runs", "--yes")
    by_node = {n["node"]: n for n in gone["nodes"]}
    assert {n["node"]: n["freed_bytes"] for n in would["nodes"]} == {n: v["freed_bytes"] for n, v in by_node.items()}
    assert by_node["gpu-1"]["freed_bytes"] >= size and [k["release"] for k in by_node["gpu-1"]["kept"]] == [SECOND]
    assert fleet.on("gpu-1", count).split() == ["0", "1"]
    kept = fleet.run("generations", "list", "-i", site)
    assert [[g["release"] for g in n["generations"]] for n in kept["nodes"]] == [[SECOND]] * 3
    refused = fleet.run("rollback", "-i", site, *fleet.places("ca", "runs", "site-keys"), "--check", ok=(5,))
    assert set(refused["refused"]) == set(fleet.names)
    again = fleet.install(SECOND, site=site)  # nothing that a node needs went away
    assert sorted(again["idle"]) == sorted(fleet.names) and fleet.ask().startswith("1.1.0: ")

    depot = ("--depot", fleet.state / "depot")
    fleet.run("depot", "remove", FIRST, *depot)
    found = fleet.run("depot", "gc", *depot)
    assert old in json.dumps(found["contents"])
    assert fleet.run("depot", "gc", "--delete", found["plan"], *depot)["size"] >= size


def test_an_engine_of_another_version_is_named_and_what_it_cannot_do_is_said_in_words(fleet: Changing) -> None:
    site = fleet.site("other", **serve_other(fleet))
    renamed = f"cd {ENGINE} && mv appliance_engine-{installer.__version__}.dist-info appliance_engine-0.0.7.dist-info"
    fleet.on("gpu-1", renamed + ' && sed -i \'s/add_parser("list"/add_parser("lists"/\' engine/generation/cli.py')
    try:
        status = fleet.run("status", "-i", site, *fleet.places("depot", "ca", "runs", "site-keys"))
        assert status["good"] and status["control"]["installer"] == installer.__version__
        engines = {n["node"]: n["release"]["engine"] for n in status["nodes"]}
        assert engines == {"gw-1": installer.__version__, "gpu-1": "0.0.7", "gpu-2": installer.__version__}
        warned = {n["node"]: [f["what"] for f in n["findings"] if f["check"] == "engine"] for n in status["nodes"]}
        assert (
            warned["gpu-1"] == [f"its engine is 0.0.7, this installer is {installer.__version__}"]
            and not warned["gw-1"]
        )
        back = fleet.run("rollback", "-i", site, *fleet.places("ca", "runs", "site-keys"), "--check", ok=(5,))
        why = back["refused"]["gpu-1"]
        assert why.startswith(f"its engine 0.0.7 does not know what this installer {installer.__version__} asks")
        assert "usage" not in why and "invalid choice" not in why
        # What is sent whole works with any engine.
        states = fleet.run("generations", "list", "-i", site, "--limit", "gpu-1")
        assert [g["release"] for g in states["nodes"][0]["generations"]] == [SECOND]
    finally:
        back_again = renamed.replace("mv ", "mv -T ").replace(
            f"appliance_engine-{installer.__version__}.dist-info appliance_engine-0.0.7.dist-info",
            f"appliance_engine-0.0.7.dist-info appliance_engine-{installer.__version__}.dist-info",
        )
        fleet.on(
            "gpu-1", back_again + ' && sed -i \'s/add_parser("lists"/add_parser("list"/\' engine/generation/cli.py'
        )


def test_a_node_leaves_while_the_others_serve(fleet: Changing) -> None:
    other = serve_other(fleet)
    evidence = ("--evidence", fleet.state / "evidence")
    with clients(fleet) as seen:
        site = fleet.site("other", **other)
        fleet.run("uninstall", "-i", site, "--limit", "gpu-2", *fleet.places("runs"), *evidence, "--yes")
        fleet.run("retire", "gpu-2", "-i", site, *fleet.places("ca", "runs"), *evidence, "--yes")
        fleet.members.remove("gpu-2")
        done = fleet.install(SECOND, site=fleet.site("other", **other))
    assert done["good"] and set(done["nodes"]) == {"gw-1", "gpu-1"}, done["failures"]
    assert seen.failed == [] and sum(seen.said.values()) > 10
    assert fleet.node("gpu-2").address not in fleet.on("gw-1", "cat /etc/appliance/nginx/nginx.conf")
    assert all(fleet.certificates("gpu-2").values())
    assert fleet.on("gpu-2", "ls -d /opt/appliance /etc/appliance 2>&1; true").count("No such file") == 2
    revoked = fleet.on("gw-1", "cat /etc/appliance/pki/crl.pem")
    assert revoked == (fleet.state / "ca/crl.pem").read_text().strip()


def _sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
