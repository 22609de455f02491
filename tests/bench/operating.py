"""What an operator of several nodes waits for. The runtime is the test double of vLLM, so that nodes and not models are measured."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from installer.lab.lab import Lab, down, up
from tests.bench.measure import Claim, Pair, seconds
from tests.demo import TREE, Demo
from tests.e2e import vllm_double
from tests.e2e.fleet import Fleet

NODES = int(os.environ.get("APPLIANCE_BENCH_NODES", "10"))  # fewer where ten are too many for the machine
CLAIMS = (
    Claim("no-change-install", "s", "the same roles task by task with pipelining (install --full)", 0.15),
    Claim("no-change-install-against-ssh", "s", "`ssh true` to every node at once", 3.0),
    Claim("rollback-switch", "s", "one second", 1.0),
    Claim("rollback-to-token", "s", "one minute", 1.0),
    *(
        Claim(
            f"first-install-of-{n}",
            "s",
            "first install of 1; both wait 240 s for a restart and 60 s for an engine",
            2.0,
        )
        for n in (2, 4, 8)
    ),
)
# What a first install waits for on a GPU server and cannot wait for here. Stated, not measured; both are at the low end of
# what is reported, because longer ones would make the ratio smaller.
# Its restart into the driver: medians of 218 to 792 s over 77 restarts of seven kinds of bare-metal servers, none of which
# had GPUs to bring up (gitlab.com/testing-farm/infrastructure, merge request 1526).
RESTART_S = 240.0
# An engine that loads weights, compiles and captures its graphs: 155 s for a model of 70 billion parameters on eight GPUs
# with the weights in memory already (vLLM issue 19824); small models on one GPU take about half a minute (issue 20264).
ENGINE_START_S = 60.0
AT_ONCE = {"batch": "100%", "per_service": 99}


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """One site of NODES nodes for what is repeated; sites of their own for first installs."""
    work.chmod(0o711)
    demo = Demo(work, work / "dist", verbose=False)
    demo.appliance("model", "demo", TREE / "build/demo/tiny")
    demo.appliance("keys", "init")
    if any(only in c.name for c in CLAIMS[:4]):
        with _fleet(demo, work / "site", NODES) as fleet:
            first, second = fleet.release("1.0.0"), fleet.release("1.1.0")
            fleet.install(first)

            def quick() -> None:
                assert sorted(fleet.install("fleet-1.0.0")["idle"]) == sorted(fleet.names)

            full = seconds(lambda: fleet.install("fleet-1.0.0", "--full"))
            yield Pair("no-change-install", seconds(quick), full, rounds=2, warm=False)
            yield Pair("no-change-install-against-ssh", seconds(quick), seconds(lambda: _ssh_true(fleet)))
            if any(only in c.name for c in CLAIMS[2:4]):
                yield from _rollback(fleet, second)
    alone = functools.cache(lambda: _first(demo, work, 1))  # one for all three
    for claim in CLAIMS[4:]:
        if only in claim.name:
            nodes = int(claim.name.rpartition("-")[2])
            yield Pair(claim.name, functools.partial(_first, demo, work, nodes), alone, rounds=1, warm=False)


def _rollback(fleet: Fleet, second: Path) -> Iterator[Pair]:
    """Between two releases and back, all nodes at once; the slowest node counts."""
    fleet.install(second)
    took: list[tuple[float, float]] = []

    def back() -> float:
        to = "fleet-1.0.0" if set(fleet.releases().values()) == {"fleet-1.1.0"} else "fleet-1.1.0"
        nodes = fleet.rollback("--to", to, "--at-once")["nodes"].values()
        took.append((max(n["switched_s"] for n in nodes), max(n["seconds"] for n in nodes)))
        return took[-1][0]

    yield Pair("rollback-switch", back, lambda: 1.0)

    def token() -> float:
        back()
        return took[-1][1]

    yield Pair("rollback-to-token", token, lambda: 60.0)


def _first(demo: Demo, work: Path, nodes: int) -> float:
    """Seconds of a first install, from the command to the proof."""
    with _fleet(demo, work / f"first-{nodes}", nodes, alike=True) as fleet:
        source = Path(vllm_double.__file__).read_text()
        waiting = source.replace("START_S = 0.0", f"START_S = {RESTART_S + ENGINE_START_S}")
        assert waiting != source
        bundle = fleet.release("1.0.0", code=waiting)
        begin = time.perf_counter()
        fleet.install(bundle)
        return time.perf_counter() - begin


@contextmanager
def _fleet(demo: Demo, where: Path, nodes: int, *, alike: bool = False) -> Iterator[Fleet]:
    """A site of so many nodes, the first of them the gateway; with ``alike`` it serves, too."""
    where.mkdir(exist_ok=True)
    name = f"bench-{os.getpid()}-{nodes}"
    lab: Lab = up(name, nodes=nodes, owner_pid=os.getpid())
    try:
        yield Fleet(demo, lab, where, 7481, AT_ONCE, alike=alike)
    finally:
        down(name)


def _ssh_true(fleet: Fleet) -> None:
    argv = [[*fleet.lab.ssh(n.address), "true"] for n in fleet.lab.nodes]
    with ThreadPoolExecutor(len(argv)) as pool:
        list(pool.map(lambda a: subprocess.run(a, check=True, capture_output=True), argv))
