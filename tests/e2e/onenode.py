"""The demo's site on one node: what is asked of it, and its inventory with another argument."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from installer.lab.lab import Lab
from tests.demo import TREE, Demo, client

UNITS = "appliance-vllm@tiny.service appliance-nginx.service appliance-firewall.service"


def on_node(lab: Lab, command: str) -> str:
    done = subprocess.run(
        [*lab.ssh(lab.nodes[0].address), command], capture_output=True, text=True, check=True, timeout=3000
    )
    return done.stdout


def start_times(lab: Lab) -> str:
    return on_node(lab, f"systemctl show -p Id,ActiveEnterTimestampMonotonic,NRestarts,MainPID {UNITS}")


def status_argv(demo: Demo) -> list[str | Path]:
    state = demo.work / "control"
    places = [w for n in ("depot", "ca", "runs") for w in (f"--{n}", state / n)]
    return ["status", *places, "--site-keys", state / "site"]


def lengths(demo: Demo, lab: Lab) -> list[int]:
    """The context length of each model, as the service itself says."""
    return [m.model_dump()["max_model_len"] for m in client(demo, lab).models.list()]


def changed(demo: Demo, max_model_len: int) -> Path:
    """The demo's inventory with another context length of its service."""
    site = demo.work / "changed"
    shutil.copytree(TREE / "inventories/demo", site, dirs_exist_ok=True)
    variables = site / "group_vars/all/site.yml"
    variables.write_text(variables.read_text().replace("max-model-len: 1024", f"max-model-len: {max_model_len}"))
    return site


def following(demo: Demo) -> Path:
    """The demo's next release: the same content under another version."""
    where = demo.work / "next"
    if (where / "demo-1.1.0").exists():
        return where / "demo-1.1.0"
    (where / "bundles").mkdir(parents=True)
    (where / "build").symlink_to(TREE / "build")
    shutil.copy2(TREE / "bundles/demo.pins.txt", where / "bundles")
    definition = where / "bundles/demo.yml"
    definition.write_text((TREE / "bundles/demo.yml").read_text().replace("version: 1.0.0", "version: 1.1.0"))
    demo.appliance("lock", definition)
    demo.appliance("build", "bundle", definition, "--out", where)
    return where / "demo-1.1.0"
