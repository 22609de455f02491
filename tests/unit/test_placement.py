"""Which GPUs and CPUs a replica gets: never two on one, close together, the same every time, and nobody else moves."""

from __future__ import annotations

import io
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import nvml
from engine.errors import InputError, ResourceError
from engine.placement import cli, record, topology
from engine.placement.choose import place
from engine.placement.model import UNKNOWN, Ask, Gpu, Held, Node, Placement
from engine.preflight.judge import judge
from tests.nodefacts import expected
from tests.nodefacts import node as facts_of
from tests.nodefacts import said as said_of
from tests.nvml_double import NvmlDouble, document

SEEDS = range(100)


def board(*domains: tuple[int, ...], uuids: random.Random | None = None) -> Node:
    """GPUs by NVLink domain: of each domain how many hang on NUMA node 0, 1, and so on. Every NUMA node has 16 CPUs."""
    cells = [(d, numa) for d, numas in enumerate(domains) for numa, number in enumerate(numas) for _ in range(number)]
    names = [f"GPU-{i:04}" for i in range(len(cells))]
    if uuids:
        uuids.shuffle(names)
    gpus = tuple(Gpu(names[i], i, i, numa, d) for i, (d, numa) in enumerate(cells))
    return Node(gpus, {n: tuple(range(16 * n, 16 * n + 16)) for n in {numa for _, numa in cells} or {0}})


HGX = board((4, 4))
PAIRS = board((2, 0), (2, 0), (0, 2), (0, 2))


def uuids(made: Placement) -> dict[str, tuple[str, ...]]:
    return {p.name: tuple(g.uuid for g in p.gpus) for p in made.places}


def holdings(made: Placement) -> dict[str, Held]:
    return {p.name: Held(tuple(g.uuid for g in p.gpus), p.cpus) for p in made.places}


def some_site(seed: int) -> tuple[list[Ask], Node]:
    draw = random.Random(seed)  # noqa: S311  not a secret
    domains = tuple(tuple(draw.randint(0, 4) for _ in range(draw.randint(1, 2))) for _ in range(draw.randint(1, 4)))
    node = board(*domains, uuids=draw)
    asks = []
    for i in range(draw.randint(1, 8)):
        kind = draw.random()
        indexes = tuple(draw.sample(range(len(node.gpus) + 1), draw.randint(1, 2))) if kind < 0.2 and node.gpus else ()
        gpus = 0 if indexes or kind > 0.9 else draw.randint(1, 4)
        asks.append(Ask(f"s{i}", f"s{i}", gpus, indexes, draw.choice([0, 0, 1, 4, 12])))
    return asks, node


@pytest.mark.parametrize("seed", SEEDS)
def test_no_gpu_and_no_cpu_goes_to_two_and_everybody_gets_what_was_asked_or_is_refused(seed: int) -> None:
    asks, node = some_site(seed)
    made = place(asks, node)
    given = [g.uuid for p in made.places for g in p.gpus]
    assert len(given) == len(set(given)) and set(given) <= {g.uuid for g in node.gpus}
    cpus = [c for p in made.places for c in p.cpus]
    assert len(cpus) == len(set(cpus)) and set(cpus) <= {c for known in node.cpus.values() for c in known}
    by_name = {a.name: a for a in asks}
    for one in made.places:
        ask = by_name[one.name]
        assert len(one.gpus) == (len(ask.indexes) or ask.gpus) and len(one.cpus) == ask.cpus
        assert not ask.indexes or {g.index for g in one.gpus} == set(ask.indexes)
    assert {p.name for p in made.places} ^ {r.name for r in made.refused} == set(by_name)
    assert all(r.what and r.remedy and r.key in ("gpus", "cpus") for r in made.refused)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_services_and_gpus_does_not_matter(seed: int) -> None:
    asks, node = some_site(seed)
    draw = random.Random(seed)  # noqa: S311  not a secret
    first = place(asks, node)
    again = place(draw.sample(asks, len(asks)), Node(tuple(draw.sample(node.gpus, len(node.gpus))), dict(node.cpus)))
    assert {p.name: p for p in first.places} == {p.name: p for p in again.places}


@pytest.mark.parametrize("seed", SEEDS)
def test_who_has_gpus_keeps_them_when_others_come_go_or_change(seed: int) -> None:
    asks, node = some_site(seed)
    counted = [a for a in asks if not a.indexes]
    before = place(counted, node)
    draw = random.Random(seed)  # noqa: S311  not a secret
    there = [a for a in counted if a.name in uuids(before)]
    gone = {a.name for a in there if draw.random() < 0.4}
    later = [a for a in there if a.name not in gone]
    later.insert(0, Ask("new", "new", draw.randint(1, 3), (), draw.choice([0, 1])))
    after = place(later, node, holdings(before))
    for one in before.places:
        if one.name not in gone:
            assert next(p for p in after.places if p.name == one.name) == one


@pytest.mark.parametrize("seed", SEEDS)
def test_a_single_replica_is_on_as_few_domains_and_numa_nodes_as_can_be(seed: int) -> None:
    """Against every choice there is."""
    draw = random.Random(seed)  # noqa: S311  not a secret
    domains = tuple(tuple(draw.randint(0, 3) for _ in range(2)) for _ in range(draw.randint(1, 2)))
    node = board(*domains, uuids=draw)
    if not node.gpus:
        return
    number = draw.randint(1, len(node.gpus))
    (one,) = place([Ask("a", "a", number)], node).places
    best = min(
        (len({g.domain for g in some}), len({g.numa for g in some}))
        for some in itertools.combinations(node.gpus, number)
    )
    chosen = (len({g.domain for g in one.gpus}), len({g.numa for g in one.gpus}))
    # With several domains, what is fewest NUMA nodes overall may start in another domain; the domains come first.
    assert chosen == best or (chosen[0] == best[0] > 1)


def test_two_small_models_leave_a_whole_numa_node_to_a_large_one() -> None:
    made = place([Ask("big", "big", 4), Ask("a", "a", 1), Ask("b", "b", 2)], HGX)
    numa = {p.name: {g.numa for g in p.gpus} for p in made.places}
    assert numa["big"] != numa["a"] == numa["b"] and len(numa["big"]) == 1


def test_two_gpus_are_a_pair_that_nvlink_joins() -> None:
    made = place([Ask("single", "single", 1), Ask("pair", "pair", 2)], PAIRS)
    assert {len({g.domain for g in p.gpus}) for p in made.places} == {1}


def test_a_service_that_came_later_takes_what_is_left_and_nobody_moves() -> None:
    first = place([Ask("a", "a", 2), Ask("b", "b", 2)], HGX)
    second = place([Ask("c", "c", 4), Ask("b", "b", 2), Ask("a", "a", 2)], HGX, holdings(first))
    assert {k: v for k, v in uuids(second).items() if k != "c"} == uuids(first)
    assert not second.refused


def test_a_gpu_that_is_gone_is_replaced_and_others_stay() -> None:
    first = place([Ask("a", "a", 2), Ask("b", "b", 2)], HGX)
    lost = first.places[0].gpus[0].uuid
    left = Node(tuple(g for g in HGX.gpus if g.uuid != lost), HGX.cpus)
    second = place([Ask("a", "a", 2), Ask("b", "b", 2)], left, holdings(first))
    assert uuids(second)["b"] == uuids(first)["b"] and lost not in uuids(second)["a"]


def test_what_does_not_fit_is_refused_with_the_key() -> None:
    made = place(
        [Ask("a", "chat", 9), Ask("b", "embed", 0, (8,)), Ask("c", "rank", 0, (0,)), Ask("d", "more", 0, (0,))], HGX
    )
    told = {r.service: (r.key, r.what) for r in made.refused}
    assert told["embed"] == ("gpus", "names GPU 8, and the node has 8 GPUs")
    assert told["more"] == ("gpus", "names GPU 0, which rank has")
    assert told["chat"] == ("gpus", "asks for 9 GPUs, and of the node's 8 are 7 free")
    with pytest.raises(InputError, match="the service embed names GPU 8"):
        cli.demand(made)


def test_cpus_are_near_the_gpus_and_never_shared() -> None:
    made = place([Ask("a", "a", 0, (5,), 8), Ask("b", "b", 0, (0,), 12), Ask("c", "c", cpus=4)], HGX)
    by_name = {p.name: p for p in made.places}
    assert set(by_name["a"].cpus) <= set(HGX.cpus[1]) and by_name["a"].numa == 1
    assert set(by_name["b"].cpus) <= set(HGX.cpus[0]) and by_name["b"].numa == 0
    assert place([Ask("a", "a", cpus=33)], HGX).refused[0].what == "asks for 33 CPUs, and of the node's 32 are 32 free"


def test_a_model_on_all_gpus_has_no_one_numa_node() -> None:
    assert place([Ask("a", "a", 8)], HGX).places[0].numa == UNKNOWN


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8", [0, 1, 2, 3, 8]), ("", []), ("7", [7]), ("x,1-2,3-", [1, 2]), ("0-1\n", [0, 1])]
)
def test_the_kernels_lists_are_read(text: str, numbers: list[int]) -> None:
    assert topology.listed(text) == numbers


def sys_tree(root: Path) -> Path:
    base = root / "devices/system"
    for numa, cpulist in enumerate(["0-1,4-5", "2-3,6-7"]):
        (base / f"node/node{numa}").mkdir(parents=True)
        (base / f"node/node{numa}/cpulist").write_text(cpulist + "\n")
    for cpu in range(8):
        (base / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
        (base / f"cpu/cpu{cpu}/topology/thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    for i, bus in enumerate(["19", "3b", "4c", "5d", "9b", "bb", "cb", "db"]):
        device = root / f"bus/pci/devices/0000:{bus}:00.0"
        device.mkdir(parents=True)
        (device / "numa_node").write_text(f"{i // 4}\n")
    return root


def test_a_board_is_read_from_nvml_and_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(7)))  # the eighth is not this process's to use
    told = nvml.read(NvmlDouble(document("h200-healthy")["answers"]))
    node = topology.node(told, sys_tree(tmp_path))
    assert [(g.index, g.minor, g.numa, g.domain) for g in node.gpus] == [(i, i, i // 4, 0) for i in range(8)]
    assert node.cpus == {0: (0, 4, 1, 5), 1: (2, 6, 3)}


def test_domains_follow_the_links_where_there_is_no_fabric() -> None:
    def gpu(index: int, *ends: int) -> nvml.Gpu:
        return nvml.Gpu(index, bus=f"0:{index}", link_ends=tuple(f"0:{e}" for e in ends))

    assert topology.domains([gpu(0, 1), gpu(1, 0), gpu(2, 9), gpu(3, 9), gpu(4)]) == {0: 0, 1: 0, 2: 2, 3: 2, 4: 4}


def test_a_lost_gpu_is_given_to_nobody() -> None:
    told = nvml.read(NvmlDouble(document("h200-lost")["answers"]))
    assert len(topology.gpus(told.gpus, {})) == sum(1 for g in told.gpus if g.uuid) < 8


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = place([Ask("a", "a", 2, cpus=2), Ask("b", "b", 0, (0,))], HGX)
    file = tmp_path / "placement.json"
    file.write_text(json.dumps(record.document(made.places)))
    assert record.held(file) == holdings(made)
    assert record.held(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"schema": 2, "places": []}', b'{"schema": 1, "places": [1]}', b'{"schema": 1}', b"\xff",
     b'{"schema": 1, "places": [{"name": "a", "service": "a", "gpus": [{}], "cpus": [], "numa": 0}]}', b" " * (record.MAX_BYTES + 1)],
)  # fmt: skip
def test_a_damaged_record_is_one_error_that_names_the_file(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    file.write_bytes(raw)
    with pytest.raises(InputError, match="cannot be read") as caught:
        record.held(file)
    assert caught.value.where == str(file) and "Remove the file" in caught.value.remedy


def test_the_verb_decides_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(asks: object) -> None:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(asks).encode())))

    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(topology, "cpus", lambda: {0: (0, 1)})
    file = tmp_path / "placement.json"
    said([{"name": "b", "service": "b", "cpus": 1}])
    assert cli.main(["decide", "--file", str(file)]) == 0
    first = capsys.readouterr().out
    assert json.loads(first)["places"][0]["cpus"] == [0]
    file.write_text(first)
    said([{"name": "a", "service": "a", "cpus": 1}, {"name": "b", "service": "b", "cpus": 1}])
    assert cli.main(["decide", "--file", str(file)]) == 0
    assert {p["name"]: p["cpus"] for p in json.loads(capsys.readouterr().out)["places"]} == {"a": [1], "b": [0]}
    assert cli.main(["show", "--file", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(first)
    said({"name": "b"})
    with pytest.raises(InputError, match="cannot be read"):
        cli.main(["decide", "--file", str(file)])
    said([{"name": "a", "service": "a", "gpus": 1}])
    with pytest.raises(ResourceError, match="NVML says"):
        cli.main(["decide", "--file", str(file)])


def test_preflight_decides_as_the_install_will() -> None:
    def says(*asks: Ask, **changes: object) -> list[tuple[str, str]]:
        want = replace(expected(), asks=asks)
        return [(f.severity, f.what) for f in judge(facts_of(**changes), want) if f.check == "services"]

    assert says() == []
    assert says(Ask("a", "a", 8)) == [("pass", "every service finds its GPUs and CPUs")]
    assert says(Ask("a", "a", 6), Ask("b", "b", 3)) == [
        ("fail", "the service b asks for 3 GPUs, and of the node's 8 are 2 free")
    ]
    assert says(Ask("a", "a", 0, (9,))) == [("fail", "the service a names GPU 9, and the node has 8 GPUs")]
    assert says(Ask("a", "a", 9), nvml=said_of("no-driver")) == []
    assert says(Ask("a", "a", 9), Ask("b", "b", cpus=4096), nvml=said_of("no-driver"))[0][1].startswith(
        "the service b asks for 4096 CPUs"
    )
