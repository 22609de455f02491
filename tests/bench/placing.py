"""Which GPUs each served model gets: the decision alone, without asking a driver."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from engine.placement.choose import place
from engine.placement.model import Ask, Gpu, Node
from tests.bench.measure import Claim, Pair, seconds

GPUS, SERVICES, BOARD = 512, 64, 8
LIMIT_S = 0.1
CLAIMS = (Claim("place-64-services-on-512-gpus", "s", f"the limit that was set, {LIMIT_S} s", 1.0),)


def pairs(_work: Path, _only: str) -> Iterator[Pair]:
    """Boards of eight GPUs on two NUMA nodes each; services of 1 to 16 GPUs that take all of them."""
    draw = random.Random(18)  # noqa: S311  not a secret
    gpus = [Gpu(f"GPU-{draw.getrandbits(64):016x}", i, i, i // (BOARD // 2), i // BOARD) for i in range(GPUS)]
    sizes = [1] * 16 + [4] * 16 + [11] * 16 + [16] * 16
    assert (len(sizes), sum(sizes)) == (SERVICES, GPUS)
    draw.shuffle(sizes)
    asks = [Ask(f"s{i}", f"s{i}", n, cpus=n) for i, n in enumerate(sizes)]
    node = Node(tuple(gpus), {n: tuple(range(16 * n, 16 * n + 16)) for n in range(GPUS // 4)})

    def decide() -> None:
        made = place(asks, node)
        if made.refused or len(made.places) != SERVICES:
            raise SystemExit("bench: a service was not placed")

    yield Pair(CLAIMS[0].name, seconds(decide), lambda: LIMIT_S)
