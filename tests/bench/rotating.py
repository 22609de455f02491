"""What clients notice when every node of a serving site gets a new key and certificate."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from installer.lab.lab import down, up
from tests.bench.measure import Claim, Pair
from tests.demo import Demo, make_bundle
from tests.nodes.daytwosite import Site
from tests.nodes.underload import STREAMS, load

QUIET_S = 2.0  # of asking before and after
CLAIMS = (
    Claim("rotate-cut-streams", "streams", "streams open through both edges", 0.0),
    Claim(
        "rotate-failed-requests",
        "requests",
        "requests meanwhile; failed means twice, the second time on a fresh connection",
        0.0,
    ),
    Claim("rotate-retried-requests", "requests", "requests meanwhile, on kept connections", 0.01),
)


def pairs(work: Path, _only: str) -> Iterator[Pair]:
    """A gateway and a node behind it, real nginx on real nodes, a double of the model: it is the edges that are looked at."""
    demo = Demo(work, work / "dist", verbose=False)
    make_bundle(demo)
    place = work / "site"
    place.mkdir()
    lab = up(f"bench-{secrets.token_hex(3)}", nodes=2, owner_pid=os.getpid())
    try:
        site = Site(demo, lab, place)
        site.write()
        site.take_in()
        site.install()
        site.edges()
        told: list[tuple[int, int, int, int]] = []
        tenant = site.client("bench")

        def rotate() -> None:
            with load(site, tenant) as during:
                time.sleep(QUIET_S)
                site.appliance("certs", "rotate", "-i", site.inventory, "--dir", place / "ca", "--runs", place / "runs")
                time.sleep(QUIET_S)
            told.append((len(during.cut), len(during.failed), during.again, during.asked))

        def noticed(position: int) -> float:
            rotate()
            return float(told[-1][position])

        for position, claim in enumerate(CLAIMS):
            baseline = (lambda: float(STREAMS)) if position == 0 else (lambda: float(told[-1][3]))
            yield Pair(claim.name, lambda position=position: noticed(position), baseline, warm=False)  # type: ignore[misc]
    finally:
        down(lab.name)
