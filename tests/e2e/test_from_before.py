"""A site that an earlier version installed: this version looks at it, upgrades it, and takes it back to where it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, ask, install_argv, site_environment
from tests.e2e.onenode import following, on_node, status_argv

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
# The last commit before settings, upgrades and returns were mended for the real engine.
BEFORE = "f6408a0"


@pytest.fixture(scope="module")
def house(demo: Demo) -> Iterator[tuple[Demo, Demo]]:
    """The product as it was and as it is, on a builder and a control host of their own; the earlier one built a bundle with its engine."""
    place = Path(tempfile.mkdtemp(prefix="appliance-before-"))
    try:
        tree, work = place / "tree", place / "work"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", TREE, tree], check=True)
        subprocess.run(["git", "-c", "advice.detachedHead=false", "checkout", "--quiet", BEFORE], cwd=tree, check=True)
        (tree / "build").symlink_to(TREE / "build")
        work.mkdir()
        shutil.copytree(demo.work / "config", work / "config")
        shutil.copy2(demo.passphrase, work / "passphrase")
        place.chmod(0o711)
        earlier, now = Demo(work, place / "dist", tree=tree), Demo(work, place / "dist")
        earlier.environment["PYTHONPATH"] = str(tree)
        earlier.appliance("lock", tree / "bundles/demo.yml")
        earlier.appliance("build", "bundle", tree / "bundles/demo.yml", "--out", earlier.out)
        yield earlier, now
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def lab(house: tuple[Demo, Demo]) -> Iterator[Lab]:
    """A node that the earlier version installed."""
    name = f"before-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    for one in house:
        site_environment(one, made)
    earlier, _ = house
    try:
        earlier.appliance(*install_argv(earlier), earlier.bundle)
        yield made
    finally:
        down(name)


def running(lab: Lab) -> str:
    return on_node(lab, "basename $(readlink /opt/appliance/current)").strip()


def test_a_site_of_an_earlier_version_is_looked_at_upgraded_and_taken_back(house: tuple[Demo, Demo], lab: Lab) -> None:
    _, demo = house
    assert not on_node(
        lab, "/opt/appliance/current/engine/bin/appliance-engine why tiny 2>/dev/null || true"
    ).strip(), "too new"
    assert ask(demo, lab)
    told = demo.appliance(*status_argv(demo), "-i", "inventories/demo", json_output=True)
    assert told["good"], told
    upgraded = demo.appliance(*install_argv(demo), following(demo), json_output=True)
    assert upgraded["good"], upgraded["failures"]
    assert running(lab) == "demo-1.1.0" and ask(demo, lab)
    control = demo.work / "control"
    places = [w for n in ("ca", "runs") for w in (f"--{n}", control / n)]
    back = demo.appliance(
        "rollback", "-i", "inventories/demo", *places, "--site-keys", control / "site", json_output=True
    )
    assert back["nodes"]["node-1"]["release"] == "demo-1.0.0"
    assert running(lab) == "demo-1.0.0" and ask(demo, lab)
    again = demo.appliance(*install_argv(demo), "--release", "demo-1.0.0", json_output=True)
    assert again["good"], again["failures"]
    assert running(lab) == "demo-1.0.0" and ask(demo, lab)
