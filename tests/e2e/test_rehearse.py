"""Completeness, proven: a whole bundle passes, one that leaves something out fails with the caller's name, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from installer.lab import state
from installer.rehearse.stage import WORK, busy
from tests.demo import TREE, Demo
from tests.e2e import vllm_double
from tests.integration.wheelsite import wheel

pytestmark = pytest.mark.nodes
PACKAGES = ["nftables", "python3-apt", "nginx-light", "libnuma1"]


def left() -> set[str]:
    """Labs and directories of rehearsals whose process is gone. Those of a running one are somebody else's, and not to be touched."""
    records = {n: state.read(n) for n in state.known() if n.startswith("rehearse-")}
    labs = {n for n, record in records.items() if record is None or not record.maker.alive()}
    directories = {d.name for d in WORK.iterdir() if not busy(d)} if WORK.is_dir() else set()
    return labs | directories


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = left()
    yield
    assert left() - before == set()


def site(where: Path) -> Path:
    """A gateway and a GPU node at addresses that are nowhere near, with a name server that the site allows."""
    demo = yaml.safe_load((TREE / "inventories/demo/group_vars/all/site.yml").read_text())["appliance_site"]
    demo["control"] = {"address": "192.0.2.5"}
    demo["management_sources"] = ["192.0.2.5/32"]
    demo["client_sources"] = ["198.51.100.0/24"]
    demo["runtime"] = "runtime"
    demo["rolling"] = {"batch": 2}
    demo["egress"] = [{"name": "time", "destinations": ["192.0.2.5"], "ports": [123], "protocol": "udp"}]
    children = {
        "gateway": {"hosts": {"gw-1": {"ansible_host": "192.0.2.10", "appliance_names": ["llm.example.internal"]}}},
        "gpu": {"hosts": {"gpu-1": {"ansible_host": "192.0.2.21"}}},
        "control": {"hosts": {"control": {"ansible_host": "192.0.2.5"}}},
    }
    (where / "group_vars/all").mkdir(parents=True)
    (where / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"vars": {"ansible_user": "deploy"}, "children": children}})
    )
    (where / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": demo}))
    return where


@pytest.mark.slow
def test_a_whole_bundle_passes_and_says_what_was_run(demo: Demo) -> None:
    done = demo.appliance("rehearse", "--keys", demo.keys, demo.bundle, ok=(0, 1), json_output=True)
    assert done["good"], done
    assert done["complete"]
    assert done["nodes"] == {"node-1": ["gateway", "gpu", "monitoring"]}
    assert [(p["gateway"], p["good"], p["refused_without_certificate"]) for p in done["proof"]] == [
        ("node-1", True, True)
    ]
    assert any("service rehearsal: answered a chat" in what for what in done["rehearsed"])
    assert done["attempts"] == []
    # The watch saw: the node fetched from the depot, and its own proof of the firewall knocked at both doors.
    assert {"inside" in reason for reason in done["excused"]} == {True, False}
    assert sum("engine.egress" in reason for reason in done["excused"]) == 2


@pytest.fixture
def forgetful(demo: Demo, tmp_path: Path) -> Path:
    """A definition whose model lacks the file that its runtime then asks a hub for."""
    code = Path(vllm_double.__file__).read_text()
    wheel(tmp_path / "wheels", "vllm", "0.32.0", files={"vllm/entrypoints/cli/main.py": code})
    (tmp_path / "empty").mkdir()
    definition = {
        "schema": 1,
        "name": "forgetful",
        "version": "1.0.0",
        "target": {"os": "debian-12", "python": "3.11"},
        "wheels": [
            {
                "name": "runtime",
                "requirements": ["vllm==0.32.0"],
                "indexes": [(tmp_path / "empty").as_uri()],
                "find_links": [str(tmp_path / "wheels")],
                "profiles": ["gpu"],
            }
        ],
        "debs": {"groups": [{"packages": PACKAGES, "profiles": ["gpu", "gateway"]}]},
        "models": [
            {
                "name": "tiny",
                "path": str(TREE / "build/demo/tiny"),
                "include": ["config.json", "*.safetensors", "LICENSE", "README.md"],
                "profiles": ["gpu"],
            }
        ],
    }
    path = tmp_path / "forgetful.yml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False))
    demo.appliance("lock", path)
    return path


@pytest.mark.slow
def test_a_definition_that_leaves_something_out_gets_no_bundle_and_the_caller_is_named(
    demo: Demo, forgetful: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dist"
    argv: list[str | Path] = ["build", "bundle", forgetful, "--out", out, "--rehearse", "-i", site(tmp_path / "site")]
    said = demo.appliance(*argv, ok=(1,), json_output=True)
    assert said["bundle"] is None
    assert f"the address of {vllm_double.HUB}" in said["why"]
    tried = [a for a in said["rehearsal"]["attempts"] if a["name"] == vllm_double.HUB]
    assert [(a["node"], a["unit"], a["kind"]) for a in tried] == [("gpu-1", "appliance-vllm@tiny.service", "lookup")]
    assert "vllm.entrypoints.cli.main" in tried[0]["command"]
    assert tried[0]["during"].startswith("vllm: ")
    assert said["rehearsal"]["nodes"] == {"gpu-1": ["gpu"], "gw-1": ["gateway"]}
    # The service goes on without it: nothing but the watch would have shown that something is missing.
    assert [(p["gateway"], p["good"]) for p in said["rehearsal"]["proof"]] == [("gw-1", True)]
    assert [p.name for p in out.iterdir() if not p.name.endswith(".lock")] == []


def test_an_interrupted_rehearsal_leaves_nothing(demo: Demo) -> None:
    """Ctrl-C while the roles run; the fixture looks for what is left."""
    command = [sys.executable, "-m", "installer", "rehearse", "--keys", str(demo.keys), str(demo.bundle)]
    running = subprocess.Popen(
        command, cwd=TREE, env=demo.environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("node-1: "):
            assert running.pid in {r.maker.pid for r in map(state.read, state.known()) if r}
            os.killpg(running.pid, signal.SIGINT)
            break
    said = running.stderr.read()
    assert running.wait(900) == 130, said
