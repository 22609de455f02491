"""Nodes that cannot be installed are named, with the task, the reason and the log."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, install_argv

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"bad-{os.getpid()}"
    made = up(name, nodes=2, owner_pid=os.getpid())
    try:
        yield made
    finally:
        down(name)


@pytest.fixture
def state(demo: Demo) -> Iterator[Path]:
    """A control host of its own, where the depot's web server can read."""
    path = Path(tempfile.mkdtemp(prefix="control-", dir=demo.work))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def inventory(lab: Lab, where: Path, addresses: dict[str, str], port: int) -> Path:
    """A site of these nodes, all of them gateway and gpu, one after the other."""
    hosts = {name: {"ansible_host": address} for name, address in addresses.items()}
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -o ConnectTimeout=5",
    }
    text = yaml.safe_dump(
        {"all": {"vars": variables, "children": {"gateway": {"hosts": hosts}, "gpu": {"hosts": hosts}}}}
    )
    (where / "group_vars/all").mkdir(parents=True)
    (where / "hosts.yml").write_text(text)
    site = yaml.safe_load((TREE / "inventories/demo/group_vars/all/site.yml").read_text())["appliance_site"]
    site["control"] = {"address": lab.host_address, "port": port}
    site["management_sources"] = [f"{lab.host_address}/32"]
    site["client_sources"] = [f"{lab.host_address}/32"]
    (where / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))
    return where


def install(demo: Demo, site: Path, state: Path, *words: str) -> dict[str, Any]:
    return demo.appliance(*install_argv(demo, site, state), *words, demo.bundle, ok=(5,), json_output=True)  # type: ignore[no-any-return]


def node(lab: Lab, number: int, command: str) -> None:
    subprocess.run([*lab.ssh(lab.nodes[number].address), command], check=True, timeout=300, capture_output=True)


def test_an_unreachable_node_is_named_and_the_rest_is_left_alone(
    demo: Demo, lab: Lab, tmp_path: Path, state: Path
) -> None:
    """The policy lets no node fail, so no other node is switched."""
    dead = lab.host_address.rsplit(".", 1)[0] + ".99"
    site = inventory(lab, tmp_path / "site", {"alive": lab.nodes[0].address, "dead": dead}, 7451)
    outcome = install(demo, site, state)
    assert [(f["node"], f["unreachable"]) for f in outcome["failures"]] == [("dead", True)]
    assert "cannot be reached" in outcome["failures"][0]["reason"]
    assert Path(outcome["log"]).is_file()
    assert not any("vllm" in c for c in outcome["nodes"]["alive"]["changes"])


def test_a_full_node_is_named_with_what_is_missing(demo: Demo, lab: Lab, tmp_path: Path, state: Path) -> None:
    node(lab, 0, "mkdir -p /var/lib/appliance && mount -t tmpfs -o size=64m tmpfs /var/lib/appliance")
    try:
        site = inventory(lab, tmp_path / "site", {"full": lab.nodes[0].address}, 7452)
        refused = install(demo, site, state)
        outcome = install(demo, site, state, "--skip-preflight", "the door itself is tried")
    finally:
        node(lab, 0, "umount -l /var/lib/appliance")
    assert [(f["node"], f["role"], f["task"]) for f in refused["failures"]] == [("full", "preflight", "space")]
    assert "GB are needed" in refused["failures"][0]["reason"] and "Free " in refused["failures"][0]["reason"]
    assert refused["nodes"] == {} and refused["log"] == ""
    assert outcome["preflight_skipped"] == "the door itself is tried"
    assert [f["node"] for f in outcome["failures"]] == ["full"]
    assert "bytes are to come and" in outcome["failures"][0]["reason"]
    assert "Free space" in outcome["failures"][0]["reason"]


def test_a_node_without_python_is_named_with_the_remedy(demo: Demo, lab: Lab, tmp_path: Path, state: Path) -> None:
    hide = "for f in /usr/bin/python3*; do mv $f /usr/lib/hidden-$(basename $f); done"
    node(lab, 1, hide)
    try:
        site = inventory(lab, tmp_path / "site", {"bare": lab.nodes[1].address}, 7453)
        outcome = install(demo, site, state)
    finally:
        node(lab, 1, "for f in /usr/lib/hidden-python3*; do mv $f /usr/bin/${f#/usr/lib/hidden-}; done")
    assert [f["node"] for f in outcome["failures"]] == ["bare"]
    assert "has no Python. Install the package python3" in outcome["failures"][0]["reason"]


def test_a_wrong_host_key_stops_before_anything_is_sent(demo: Demo, lab: Lab, tmp_path: Path, state: Path) -> None:
    site = inventory(lab, tmp_path / "site", {"imposter": lab.nodes[0].address}, 7454)
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    hosts = (site / "hosts.yml").read_text()
    (site / "hosts.yml").write_text(hosts.replace(str(lab.known_hosts), shlex.quote(str(empty))))
    outcome = install(demo, site, state)
    assert outcome["failures"][0]["unreachable"]
    assert "Host key verification failed" in outcome["failures"][0]["reason"]
