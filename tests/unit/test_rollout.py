"""The walk through the nodes, with playbooks and nodes replaced by what they answer: who is changed, who is left, who goes back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.report import Silent
from installer.site.events import Tracker
from installer.site.inventory import Host, Inventory
from installer.site.ledger import Ledger
from installer.site.rollback import Restored
from installer.site.rollout import Means, Rollout, absences, batches, order, roll
from installer.site.settings import Site
from installer.site.unchanged import NodeNow

OLD, NEW = "demo-1.0.0", "demo-1.1.0"


@dataclass
class World:
    """Nodes n1 to nN that serve one model. ``fails`` names those that fail in a playbook, ``stuck`` those that do not come back."""

    runs: Path
    n: int = 4
    rolling: dict[str, Any] = field(default_factory=dict)
    prepare_fails: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    before: str = OLD
    carry_on: bool = False
    seen: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    out_at: list[set[str]] = field(default_factory=list)

    def run(self) -> Rollout:
        hosts = tuple(Host(f"n{i}", f"192.0.2.{i}", ("gpu",)) for i in range(1, self.n + 1))
        site = Site.model_validate(
            {
                "control": {"address": "192.0.2.200"}, "management_sources": ["192.0.2.200"], "rolling": {"per_service": 9, **self.rolling},
                "services": [{"name": "chat", "model": "m", "served_name": "m"}],
            }
        )  # fmt: skip
        self.inventory = Inventory(Path("site"), hosts, site)
        self.tracker = Tracker([h.name for h in hosts])
        self.ledger = Ledger(self.runs)
        now = {h.name: NodeNow(h.name, self.before, 1 if self.before else 0) for h in hosts}
        means = Means(self._play, self._restore, self.tracker, self.ledger, Silent(), self.carry_on)
        return roll(self.inventory, hosts, now, NEW, means)

    def _play(self, name: str, nodes: Collection[str]) -> None:
        self.seen.append((name.removesuffix(".yml"), tuple(nodes)))
        if name == "converge.yml":
            self.out_at.append(set(Ledger(self.runs).out))  # as somebody else would read it now
        for node in nodes:
            if node in self.waits and name == "converge.yml":
                facts = {"ansible_facts": {"appliance_waiting": "it is not Saturday"}}
                self.tracker.handle({"event": "runner_on_ok", "event_data": {"host": node, "task": "t", "res": facts}})
            if node in (self.prepare_fails if name == "prepare.yml" else self.fails):
                self.tracker.handle(
                    {"event": "runner_on_failed", "event_data": {"host": node, "task": "t", "res": {"msg": "broken"}}}
                )

    def _restore(self, host: Host, release: str) -> Restored:
        self.seen.append(("restore", (host.name,)))
        if host.name in self.stuck:
            return Restored(host.name, False, failure="it does not start")
        return Restored(host.name, True, release, 1, 0.1, 2.0)


def test_all_are_prepared_before_the_first_is_changed(tmp_path: Path) -> None:
    world = World(tmp_path, rolling={"batch": 2})
    made = world.run()
    assert world.seen == [("prepare", ("n1", "n2", "n3", "n4")), ("converge", ("n1", "n2")), ("converge", ("n3", "n4"))]
    assert made.done == ["n1", "n2", "n3", "n4"] and not made.stopped
    assert world.out_at == [{"n1", "n2"}, {"n3", "n4"}]
    assert dict(world.ledger.out) == {}


def test_a_node_that_waits_for_its_window_is_in_service_and_the_others_go_on(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, waits=("n2",))
    made = world.run()
    assert made.done == ["n1", "n3"] and not made.stopped and not made.restored
    assert world.tracker.nodes["n2"].waiting == "it is not Saturday"
    assert dict(world.ledger.out) == {}


def test_a_gate_that_fails_on_the_second_of_three_stops_there_and_takes_that_node_back(tmp_path: Path) -> None:
    world = World(tmp_path, n=3, fails=("n2",))
    made = world.run()
    assert made.done == ["n1"] and made.left_alone == ["n3"]
    assert made.restored["n2"].release == OLD
    assert "1 of 3 nodes failed" in made.stopped
    assert ("converge", ("n3",)) not in world.seen
    assert dict(world.ledger.out) == {}


def test_a_node_that_does_not_come_back_stays_on_the_record_and_blocks_the_next_run(tmp_path: Path) -> None:
    world = World(tmp_path, n=4, fails=("n2",), stuck=("n2",), rolling={"max_failed_percent": 100})
    made = world.run()
    assert "1 nodes are out of service (n2)" in made.stopped
    assert made.done == ["n1"] and made.left_alone == ["n3", "n4"]
    assert world.ledger.out["n2"].why == "it does not start"
    # Another run begins with mending n2: until it is back, nobody else may leave.
    again = World(tmp_path, n=4)
    assert again.run().done == ["n2", "n1", "n3", "n4"]
    assert again.out_at == [{"n2"}, {"n1"}, {"n3"}, {"n4"}]


def test_the_site_may_let_more_be_out(tmp_path: Path) -> None:
    world = World(tmp_path, n=4, fails=("n2",), stuck=("n2",), rolling={"max_failed_percent": 25, "max_unavailable": 2})
    made = world.run()
    assert made.done == ["n1", "n3", "n4"] and not made.stopped
    assert max(len(out) for out in world.out_at) == 2


@pytest.mark.parametrize("batch", [1, 2, "25%"])
@pytest.mark.parametrize("percent", [0, 10, 50])
@pytest.mark.parametrize("place", ["n1", "n2", "n8"])
def test_expected_stops(tmp_path: Path, batch: int | str, percent: int, place: str) -> None:
    """T35: sizes x thresholds x positions of one failure; the batch of the failure is the last one where one is too many."""
    world = World(tmp_path, n=8, fails=(place,), rolling={"batch": batch, "max_failed_percent": percent})
    made = world.run()
    size = {1: 1, 2: 2, "25%": 2}[batch]
    index = (int(place[1:]) - 1) // size
    expected = 8 if percent >= 13 else min(8, (index + 1) * size)
    assert len(made.done) == expected - 1
    assert len(made.left_alone) == 8 - expected
    assert set(made.restored) == {place}


def test_a_node_that_cannot_be_prepared_is_left_out_or_stops_all(tmp_path: Path) -> None:
    strict = World(tmp_path, prepare_fails=("n3",))
    assert strict.run().left_alone == ["n1", "n2", "n4"]
    assert [name for name, _ in strict.seen] == ["prepare"]
    lenient = World(tmp_path, prepare_fails=("n3",), rolling={"max_failed_percent": 25})
    assert lenient.run().done == ["n1", "n2", "n4"]
    assert ("restore", ("n3",)) not in lenient.seen  # it was not touched


def test_a_first_install_takes_nobody_out_and_restores_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, before="", fails=("n1",), rolling={"batch": 4})
    made = world.run()
    assert made.restored == {} and world.out_at == [set()]


def test_a_pause_stops_without_failing_until_somebody_says_go_on(tmp_path: Path) -> None:
    made = World(tmp_path, rolling={"pause_after": [1]}).run()
    assert (made.paused, made.done, made.left_alone) == (1, ["n1"], ["n2", "n3", "n4"])
    assert World(tmp_path, rolling={"pause_after": [1]}, carry_on=True).run().done == ["n1", "n2", "n3", "n4"]


def test_a_killed_control_host_leaves_on_record_who_was_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    real = world._play

    def dying(name: str, nodes: Collection[str]) -> None:
        real(name, nodes)
        if name == "converge.yml" and "n2" in nodes:
            raise KeyboardInterrupt

    world._play = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert set(Ledger(tmp_path).out) == {"n2"}


def test_a_damaged_record_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "out-of-service.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Ledger(tmp_path)


# -- nodes that join, and nodes that are gone -----------------------------------------------------------
def site_of(runs: Path, *, batch: Any = 1, **releases: str) -> tuple[Inventory, dict[str, NodeNow]]:
    """A site whose gateways are called edge-N, so that they come first by name; a node without a release is new."""
    hosts = tuple(
        Host(n.replace("_", "-"), f"192.0.2.{i}", ("gateway",) if n.startswith("edge") else ("gpu",))
        for i, n in enumerate(sorted(releases), 1)
    )
    site = Site.model_validate(
        {
            "control": {"address": "192.0.2.200"}, "management_sources": ["192.0.2.200"], "rolling": {"batch": batch, "per_service": 9},
            "services": [{"name": "chat", "model": "m", "served_name": "m"}],
        }
    )  # fmt: skip
    now = {
        h.name: NodeNow(h.name, r, 1 if r else 0)
        for h in hosts
        if (r := releases[h.name.replace("-", "_")]) is not None
    }
    return Inventory(Path("site"), hosts, site), now


@pytest.mark.parametrize("batch", [1, "100%", [1, "100%"]])
def test_a_node_that_joins_is_ready_before_a_gateway_is_told_of_it(tmp_path: Path, batch: Any) -> None:
    inventory, now = site_of(tmp_path, batch=batch, edge_1=OLD, gpu_1=OLD, gpu_2=OLD, gpu_3="")
    ordered = order(inventory, list(now), now)
    assert ordered == ["gpu-3", "gpu-1", "gpu-2", "edge-1"]
    made = batches(inventory, ordered, {}, now)
    assert made[0] == ["gpu-3"] and [n for b in made for n in b] == ordered


def test_a_first_install_needs_no_batch_of_its_own_for_nodes_that_join(tmp_path: Path) -> None:
    inventory, now = site_of(tmp_path, batch="100%", edge_1="", gpu_1="", gpu_2="")
    assert batches(inventory, order(inventory, list(now), now), {}, now) == [["gpu-1", "gpu-2", "edge-1"]]


def test_a_gateway_that_is_out_of_service_is_not_waited_for_by_those_that_would_have_to_wait_for_it(
    tmp_path: Path,
) -> None:
    inventory, now = site_of(tmp_path, edge_1=OLD, gpu_1=OLD, gpu_2="")
    assert order(inventory, list(now), now, {"edge-1"}) == ["gpu-2", "edge-1", "gpu-1"]


def test_a_node_that_joins_and_fails_leaves_the_gateways_as_they_are(tmp_path: Path) -> None:
    inventory, now = site_of(tmp_path, edge_1=OLD, gpu_1=OLD, gpu_2="")
    tracker, seen = Tracker(list(now)), list[tuple[str, tuple[str, ...]]]()

    def play(name: str, nodes: Collection[str]) -> None:
        seen.append((name, tuple(nodes)))
        if name == "converge.yml" and "gpu-2" in nodes:
            failed = {"host": "gpu-2", "task": "t", "res": {"msg": "broken"}}
            tracker.handle({"event": "runner_on_failed", "event_data": failed})

    means = Means(play, lambda host, _: pytest.fail(host.name), tracker, Ledger(tmp_path), Silent())
    made = roll(inventory, inventory.nodes, now, OLD, means)
    assert [nodes for name, nodes in seen if name == "converge.yml"] == [("gpu-2",)]
    assert made.left_alone == ["gpu-1", "edge-1"] and made.restored == {}


def test_a_node_that_left_the_inventory_counts_against_nobody(tmp_path: Path) -> None:
    Ledger(tmp_path).take_out({"gone-9": ["chat"], "n1": ["chat"]}, "lost power")
    world = World(tmp_path, n=3, rolling={"per_service": 1})
    made = world.run()
    assert made.done == ["n1", "n2", "n3"] and not made.stopped
    assert set(absences(world.inventory, Ledger(tmp_path))) == set()
    assert set(world.ledger.out) == {"gone-9"}  # another site may share the record
