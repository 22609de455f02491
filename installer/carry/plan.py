"""Which file goes onto which medium. Pure: sizes in, volumes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.errors import InputError
from engine.trust import Target

BLOCK = 4096  # bytes; what a file occupies at least on the file systems of media


@dataclass(frozen=True)
class Item:
    """A whole file, or one piece of a large one (``piece`` counts from 0). ``size`` in bytes; ``block`` is the medium's."""

    target: Target
    piece: int | None
    size: int
    block: int = BLOCK

    @property
    def occupied(self) -> int:
        """Bytes on the medium, with the file system's rounding and its entry."""
        return -(-self.size // self.block) * self.block + BLOCK

    @property
    def path(self) -> str:
        """Where it lies in a volume."""
        return self.target.path if self.piece is None else f"pieces/{self.target.sha256}/{self.piece:05}"


@dataclass
class Volume:
    """One medium's share. ``capacity`` in bytes, what is left for items."""

    capacity: int
    items: list[Item] = field(default_factory=list)

    @property
    def free(self) -> int:
        return self.capacity - sum(i.occupied for i in self.items)

    @property
    def size(self) -> int:
        return sum(i.size for i in self.items)


def items(targets: Iterable[Target], capacity: int, *, block: int = BLOCK, cut_above: int | None = None) -> list[Item]:
    """Files as items; in their pieces those longer than ``cut_above`` bytes, which the media may not take whole, and those
    longer than a tenth of a medium, so that little space is left over.
    """
    most = capacity // 10 if cut_above is None else min(capacity // 10, cut_above)
    out = []
    for target in targets:
        if target.chunks and target.size > most:
            for index in range(len(target.chunks)):
                start = index * target.chunk_size
                out.append(Item(target, index, min(target.chunk_size, target.size - start), block))
        else:
            out.append(Item(target, None, target.size, block))
    return out


def plan(
    targets: Sequence[Target],
    capacities: Sequence[int],
    *,
    repeat: bool,
    block: int = BLOCK,
    cut_above: int | None = None,
) -> list[Volume]:
    """Put every file on a volume, first fit by decreasing size, largest volumes first.

    Args:
        targets: one for each content.
        capacities: bytes of each medium; with ``repeat`` one size, as often as needed.
        block: bytes that the smallest file occupies on the media.
        cut_above: bytes; longer files go in pieces, whatever room there is.

    Raises:
        InputError: a file fits on no medium, or all of them together are too small.
    """
    if not capacities or max(capacities) <= 0:
        raise InputError("a medium is too small for the metadata alone", remedy="Use larger media.")
    wanted = sorted(
        items(targets, max(capacities), block=block, cut_above=cut_above),
        key=lambda i: (-i.occupied, i.target.path, i.piece or 0),
    )
    waiting = [] if repeat else sorted(capacities, reverse=True)
    volumes: list[Volume] = []
    free: list[int] = []
    for item in wanted:
        place = next((n for n, f in enumerate(free) if f >= item.occupied), None)
        if place is None:
            size = capacities[0] if repeat else waiting.pop(0) if waiting else 0
            if size < item.occupied:
                left = sum(i.size for i in wanted) - sum(v.size for v in volumes)
                raise InputError(
                    f"{item.path} ({item.size:,} bytes) fits on no medium that is left; {left:,} bytes have no place",
                    remedy="Use a larger --size." if repeat else "Use larger or more media.",
                )
            volumes.append(Volume(size))
            free.append(size)
            place = len(volumes) - 1
        volumes[place].items.append(item)
        free[place] -= item.occupied
    for volume in volumes:
        volume.items.sort(key=lambda i: (i.target.path, i.piece or 0))
    return volumes or [Volume(capacities[0])]
