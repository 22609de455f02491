"""To be measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Claim, Pair

CLAIMS: tuple[Claim, ...] = ()


def pairs(_work: Path, _only: str) -> Iterator[Pair]:
    return iter(())
