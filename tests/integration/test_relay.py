"""Nodes that hand content on to each other: whatever one of them does, the others get the right bytes, and soon."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make
from tests.links import Links, links
from tests.relaysite import RelaySite

SIZE = 32 << 20
RATE, SECONDS = "100mbit", SIZE * 8 / 100e6
MODEL = "content/models/m/weights.bin"


@pytest.fixture(scope="module")
def network() -> Iterator[Links]:
    with links(4, RATE) as made:
        yield made


@pytest.fixture(scope="module")
def depot(network: Links) -> Iterator[RelaySite]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # four nodes must not wait for one disk
        place = Path(name)
        place.chmod(0o755)
        files = {"models/m/weights.bin": os.urandom(SIZE), **{f"files/{i}": os.urandom(30_000 + i) for i in range(20)}}
        site = RelaySite(network, place, make(place / "bundles", files))
        with site.served():
            yield site


@pytest.fixture
def site(depot: RelaySite) -> Iterator[RelaySite]:
    """Four empty nodes on equal links."""
    for node in depot.nodes:
        depot.links.agent(node)
        depot.links.shape(node, RATE)
    yield depot
    for node in depot.nodes:
        if depot.links.agents[node].process.poll() is None:
            depot.close_relays(node)
    depot.forget()


def arrived(site: RelaySite, node: str) -> int:
    """Bytes of the model that lie on a node."""
    blobs = site.store(node) / "blobs"
    sha256, _ = site.files[MODEL]
    for path in (blobs / "sha256" / sha256[:2] / sha256, blobs / "partial" / sha256):
        if path.exists():
            return path.stat().st_size
    return 0


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def fill(path: Path) -> None:
    """Take all space that is free, at once: the fetch goes on meanwhile."""
    with path.open("wb", buffering=0) as file:
        while free := shutil.disk_usage(path).free:
            with contextlib.suppress(OSError):  # the fetch took some of it
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)


def run_with(site: RelaySite, fault: Callable[[], object] | None = None, **odd: dict[str, Any]) -> None:
    """Start all nodes in a chain, one after the other; the fault comes when the second has a third of the model."""
    for node in site.nodes:
        site.start(node, chain=site.nodes, **odd.get(node, {}))
        wait_for(lambda node=node: (site.store(node) / "blobs" / "partial").exists())  # type: ignore[misc]
    if fault:
        wait_for(lambda: arrived(site, "n2") > SIZE // 3, 10)
        fault()


def story(said: dict[str, dict[str, Any]]) -> str:
    """Who took what from whom, for a failed assertion."""
    return "; ".join(
        f"{n}: {s.get('seconds')} s {s.get('sources')} {s.get('error', '')} {s.get('left')}" for n, s in said.items()
    )


def good(site: RelaySite, *nodes: str) -> dict[str, dict[str, Any]]:
    """Those nodes end well and hold the right bytes; how long it takes is measured by `./run bench relay`."""
    said = site.finish(*nodes)
    for node in nodes:
        assert "error" not in said[node], said[node]
        assert site.holds(node), node
    return said


def test_nodes_feed_each_other_and_the_depot_sends_little_more_than_once(site: RelaySite) -> None:
    run_with(site)
    said = good(site, *site.nodes)
    total = said["n1"]["travelled"]
    assert all(s["relaying"] and s["travelled"] == total and not s["left"] for s in said.values())
    assert sum(s["sources"].get("depot", 0) for s in said.values()) < 2.5 * total


def test_a_node_that_falls_silent_costs_the_others_seconds(site: RelaySite) -> None:
    """No reset, no refusal: its cable is out."""
    run_with(site, lambda: site.links.unplug("n2"))
    said = good(site, "n1", "n3", "n4")
    site.links.agents["n2"].kill()
    site.links.plug("n2")
    silent, innocent = site.links.address("n2"), site.links.address("n3")
    assert f"{silent} does not answer" in said["n3"]["left"]
    assert not [w for w in said["n4"]["left"] if w.startswith(innocent)]
    assert said["n3"]["sources"][silent] > SIZE // 10  # what it had brought before was kept


def test_a_node_that_gets_slow_is_gone_around_by_the_one_behind_it_alone(site: RelaySite) -> None:
    run_with(site, lambda: site.links.shape("n2", "5mbit"))
    said = good(site, "n1", "n3", "n4")
    site.links.shape("n2", RATE)
    slow, innocent = site.links.address("n2"), site.links.address("n3")
    # With its queue full it may not answer a question in time, either: which of the two is seen first hangs on the machine.
    assert set(said["n3"]["left"]) & {f"{slow} became too slow", f"{slow} does not answer"}, story(said)
    assert not [w for w in said["n4"]["left"] if w.startswith(innocent)]
    good(site, "n2")


def test_a_liar_is_named_and_left_by_its_neighbour_and_nobody_further_sees_a_wrong_byte(site: RelaySite) -> None:
    run_with(site, n2={"lie": SIZE // 3})
    said = good(site, *site.nodes)
    liar = site.links.address("n2")
    assert f"{liar} served wrong bytes of {MODEL}" in said["n3"]["left"], story(said)
    innocent = site.links.address("n3")
    assert not [w for w in said["n4"]["left"] if w.startswith(innocent) and "wrong" in w], story(said)
    # Only the wrong piece came twice.
    assert said["n3"]["travelled"] == said["n1"]["travelled"]


def test_a_liar_about_short_blobs_is_found_by_their_signed_hash(site: RelaySite) -> None:
    run_with(site, n1={"lie": 0})
    said = good(site, *site.nodes)
    assert any("served wrong bytes" in w for n in ("n2", "n3", "n4") for w in said[n]["left"])
    assert not [w for n in ("n3", "n4") for w in said[n]["left"] if not w.startswith(site.links.address("n1"))]


def test_a_full_disk_stops_one_node_and_no_other(site: RelaySite) -> None:
    store = site.store("n2")
    store.mkdir(parents=True)
    site.links.agents["n2"].kill()  # it has mounts of its own, as they were when it started
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=310m,mode=0755", "tmpfs", store], check=True)
    try:
        site.links.agent("n2")

        def fault() -> None:
            site.links.shape("n2", "5mbit")  # or it might be through before the disk is full
            fill(store / "log")

        run_with(site, fault)
        said = site.finish("n2")["n2"]
        assert said["kind"] == "ResourceError"
        assert "the disk is full" in said["error"]
        good(site, "n1", "n3", "n4")
    finally:
        site.links.agents["n2"].kill()
        subprocess.run(["umount", "-l", store], check=True)


def test_what_a_killed_fetch_left_is_kept_as_far_as_it_is_right(site: RelaySite) -> None:
    run_with(site, site.links.agents["n4"].kill)
    good(site, "n1", "n2", "n3")
    sha256, _ = site.files[MODEL]
    partial = site.store("n4") / "blobs" / "partial" / sha256
    kept = partial.stat().st_size
    with partial.open("r+b") as file:
        file.seek(kept // 2)
        file.write(b"rotten bytes")
    site.links.agent("n4")
    site.start("n4", chain=site.nodes)
    said = good(site, "n4")["n4"]
    assert SIZE - kept < said["travelled"] < SIZE - kept // 2 + (1 << 20)
    assert said["sources"].get("depot", 0) == 0
