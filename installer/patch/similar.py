"""Which parts of the base look like a part of the target. Only how small a patch gets depends on it."""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable

# Content picks where a sample begins, so that samples move with it: about one byte in 600 of machine code, one in 1000
# of text. Two fixed sets of values found with a regular expression are the fastest rolling hash that Python has.
SAMPLE = re.compile(rb"[\x24e\x8b\x03][\x30-\x33\x60-\x63\xc0-\xc3](?=(.{24}))", re.DOTALL)
COMMON = 8  # segments; a sample that occurs in more of them says nothing
LEAST = 2.0  # samples in common, each counted by how rare it is


class Similar:
    """Samples of the base's segments, by number.

    Args:
        every: how many of the samples there are for each that is kept.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._where: defaultdict[bytes, list[int]] = defaultdict(list)
        self._sizes: dict[int, int] = {}

    def add(self, number: int, raw: bytes | bytearray) -> None:
        self._sizes[number] = len(raw)
        for sample in self._samples(raw):
            known = self._where[sample]
            if len(known) <= COMMON:
                known.append(number)

    def best(self, raws: Iterable[bytes | bytearray], limit: int) -> list[int]:
        """Numbers of the segments that have most in common with these, in order, at most ``limit`` bytes of them."""
        votes: Counter[int] = Counter()
        for raw in raws:
            for sample in self._samples(raw):
                known = self._where.get(sample, [])
                if len(known) <= COMMON:
                    for number in known:
                        votes[number] += 1 / len(known)  # type: ignore[assignment]
        chosen, total = [], 0
        for number, count in sorted(votes.items(), key=lambda v: (-v[1], v[0])):
            if count < LEAST or total + self._sizes[number] > limit:
                break
            chosen.append(number)
            total += self._sizes[number]
        return sorted(chosen)

    def _samples(self, raw: bytes | bytearray) -> set[bytes]:
        found = {m[1] for m in SAMPLE.finditer(raw)}
        return found if self._every == 1 else {s for s in found if zlib.crc32(s) % self._every == 0}
