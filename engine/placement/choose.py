"""The decision: replicas onto the GPUs and CPUs of one node. Pure, and the same for the same input, in whatever order it is given.

Who named GPUs gets those. Who has GPUs keeps them, so that a service that is added, changed or removed moves no other. Everybody else
chooses among what is left, the largest first: on as few NVLink domains as possible, then on as few NUMA nodes, then where the least is
left over, so that large gaps stay for large models. Ties are broken by UUID, which stays when indexes change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate, islice

from engine.placement.model import UNKNOWN, Ask, Gpu, Held, Node, Place, Placement, Refusal

NOBODY: Mapping[str, Held] = {}


def place(asks: Sequence[Ask], node: Node, held: Mapping[str, Held] = NOBODY) -> Placement:
    """Give every replica its GPUs and CPUs.

    Args:
        held: what replicas have already, by name. What no longer fits what is asked for, or is gone, is chosen again.
    """
    gpus, refused = _gpus(asks, node, held)
    cpus, more = _cpus([a for a in asks if a.name in gpus], node, held, gpus)
    near = {cpu: numa for numa, known in node.cpus.items() for cpu in known}
    places = tuple(
        Place(a.name, a.service, gpus[a.name], cpus[a.name], _numa(near, gpus[a.name], cpus[a.name]))
        for a in asks
        if a.name in cpus
    )
    return Placement(places, (*refused, *more))


def _gpus(
    asks: Sequence[Ask], node: Node, held: Mapping[str, Held]
) -> tuple[dict[str, tuple[Gpu, ...]], list[Refusal]]:
    by_index, by_uuid = {g.index: g for g in node.gpus}, {g.uuid: g for g in node.gpus}
    free, owner = dict(by_uuid), dict[str, str]()
    given: dict[str, tuple[Gpu, ...]] = {a.name: () for a in asks if not a.gpus and not a.indexes}
    refused: list[Refusal] = []

    def give(ask: Ask, chosen: Iterable[Gpu]) -> None:
        given[ask.name] = tuple(sorted(chosen, key=lambda g: g.uuid))
        for gpu in given[ask.name]:
            owner[gpu.uuid] = ask.service
            del free[gpu.uuid]

    for ask in sorted((a for a in asks if a.indexes), key=lambda a: a.name):
        gone = [str(i) for i in ask.indexes if i not in by_index]
        taken = [i for i in ask.indexes if i in by_index and by_index[i].uuid not in free]
        if gone:
            what = f"names GPU {', '.join(gone)}, and the node has {_counted(len(node.gpus))}"
            refused.append(Refusal(ask.name, ask.service, "gpus", what, "name GPUs that `nvidia-smi -L` lists"))
        elif taken:
            other = owner[by_index[taken[0]].uuid]
            what = f"names GPU {taken[0]}, which {other} has"
            refused.append(Refusal(ask.name, ask.service, "gpus", what, "give every GPU to one service"))
        else:
            give(ask, (by_index[i] for i in dict.fromkeys(ask.indexes)))
    counted = sorted((a for a in asks if a.gpus and not a.indexes), key=lambda a: (-a.gpus, a.name))
    for ask in counted:
        has = held.get(ask.name, Held()).gpus
        if len(has) == ask.gpus and len(set(has)) == ask.gpus and all(u in free for u in has):
            give(ask, (free[u] for u in has))
    for ask in counted:
        if ask.name in given:
            continue
        if ask.gpus > len(free):
            what = f"asks for {_counted(ask.gpus)}, and of the node's {len(node.gpus)} are {len(free)} free"
            remedy = "ask for fewer, or run it on other nodes"
            refused.append(Refusal(ask.name, ask.service, "gpus", what, remedy))
        else:
            give(ask, _closest(list(free.values()), ask.gpus))
    return given, refused


def _closest(free: Sequence[Gpu], number: int) -> list[Gpu]:
    """The ``number`` free GPUs that are closest to each other."""
    cells: dict[int, dict[int, list[Gpu]]] = defaultdict(lambda: defaultdict(list))
    for gpu in sorted(free, key=lambda g: g.uuid):
        cells[gpu.domain][gpu.numa].append(gpu)
    one = [c for domain in cells.values() for c in domain.values() if len(c) >= number]
    if one:  # one domain and one NUMA node; of several the one where the least is left, first of its domain and then of itself
        left = {d: sum(map(len, c.values())) for d, c in cells.items()}
        return min(one, key=lambda c: (len(c), left[c[0].domain], c[0].uuid))[:number]
    whole = [d for d in cells.values() if sum(map(len, d.values())) >= number]
    if whole:
        best = min(whole, key=lambda d: (_spread(d.values(), number), sum(map(len, d.values())), _first(d.values())))
        return _fewest(best.values(), number)
    chosen: list[Gpu] = []
    domains = [[g for cell in d.values() for g in cell] for d in cells.values()]
    for domain in sorted(domains, key=lambda d: (-len(d), min(g.uuid for g in d))):
        parts: dict[int, list[Gpu]] = defaultdict(list)
        for gpu in domain:
            parts[gpu.numa].append(gpu)
        chosen += _fewest(parts.values(), min(number - len(chosen), len(domain)))
    return chosen


def _fewest(cells: Iterable[Sequence[Gpu]], number: int) -> list[Gpu]:
    """From as few NUMA nodes as possible: the fullest first, and the rest from the smallest that holds it."""
    chosen: list[Gpu] = []
    rest = sorted(cells, key=lambda c: (-len(c), c[0].uuid))
    while rest and len(chosen) < number:
        wanted = number - len(chosen)
        fitting = [c for c in rest if len(c) >= wanted]
        cell = fitting[-1] if fitting else rest[0]
        chosen += cell[:wanted]
        rest.remove(cell)
    return chosen


def _spread(cells: Iterable[Sequence[Gpu]], number: int) -> int:
    """How many of the cells it takes at least."""
    sums = accumulate(sorted(map(len, cells), reverse=True))
    return 1 + sum(1 for total in sums if total < number)


def _first(cells: Iterable[Sequence[Gpu]]) -> str:
    return min(c[0].uuid for c in cells)


def _cpus(
    asks: Sequence[Ask], node: Node, held: Mapping[str, Held], gpus: Mapping[str, Sequence[Gpu]]
) -> tuple[dict[str, tuple[int, ...]], list[Refusal]]:
    free = {numa: list(cpus) for numa, cpus in sorted(node.cpus.items())}
    home = {cpu: numa for numa, cpus in free.items() for cpu in cpus}
    total = sum(map(len, free.values()))
    given: dict[str, tuple[int, ...]] = {a.name: () for a in asks if not a.cpus}
    refused: list[Refusal] = []
    wanting = sorted((a for a in asks if a.cpus), key=lambda a: (-a.cpus, a.name))

    def give(ask: Ask, chosen: AbstractSet[int]) -> None:
        given[ask.name] = tuple(sorted(chosen))
        for numa in {home[c] for c in chosen}:
            free[numa] = [c for c in free[numa] if c not in chosen]

    for ask in wanting:
        has = set(held.get(ask.name, Held()).cpus)
        if len(has) == ask.cpus and all(c in home and c in free[home[c]] for c in has):
            give(ask, has)
    for ask in wanting:
        if ask.name in given:
            continue
        left = sum(map(len, free.values()))
        if ask.cpus > left:
            what = f"asks for {ask.cpus} CPUs, and of the node's {total} are {left} free"
            remedy = "ask for fewer, or run it on other nodes"
            refused.append(Refusal(ask.name, ask.service, "cpus", what, remedy))
            continue
        near = Counter(g.numa for g in gpus.get(ask.name, ()))
        order = sorted(free, key=lambda n: (-near[n], len(free[n]) < ask.cpus, _room(len(free[n]), ask.cpus), n))
        give(ask, set(islice((c for numa in order for c in free[numa]), ask.cpus)))
    return given, refused


def _room(free: int, wanted: int) -> int:
    """Smallest that holds it first; of those that do not, the largest."""
    return free if free >= wanted else -free


def _numa(near: Mapping[int, int], gpus: Sequence[Gpu], cpus: Sequence[int]) -> int:
    """Where a node has one NUMA node alone, there is none to prefer."""
    where = {g.numa for g in gpus} | {near[c] for c in cpus}
    return where.pop() if len(where) == 1 and len(set(near.values())) > 1 else UNKNOWN


def _counted(number: int) -> str:
    return f"{number or 'no'} GPU{'' if number == 1 else 's'}"
