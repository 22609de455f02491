"""What the end of an install says of the ways out: what nodes measured and signed, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.egress import FRAMES, SOCKETS, Attempt
from engine.egress_proof import Found
from engine.talk import Talk
from installer.cli.outcome import page
from installer.cli.screen import Screen
from installer.site import egress, waysout
from installer.site import install as installing
from installer.site.events import Failure
from installer.site.install import Outcome
from installer.site.inventory import Connection, Host, Inventory
from installer.site.rollout import Rollout
from installer.site.settings import Control, Site
from installer.site.waysout import WaysOut
from tests.unit.test_evidence_egress import Node

NOW = datetime.now(UTC)
HOSTS = tuple(Host(f"gpu-{n}", f"192.0.2.2{n}", ("gpu",)) for n in (1, 2, 3))
SITE = Site(control=Control(address="192.0.2.5"), management_sources=("192.0.2.5",))
INVENTORY = Inventory(Path("site"), HOSTS, SITE, {h.name: Connection(h.address) for h in HOSTS})


def attempts(**outcomes: int) -> list[Attempt]:
    """So many attempts of each outcome, TCP ones and frames in turn, as the engine notes them."""
    made = []
    for outcome, count in outcomes.items():
        for n in range(count):
            kind, door = ("tcp", SOCKETS) if n % 2 else ("frame", FRAMES)
            seen = outcome in ("refused", "blocked")
            made.append(Attempt(kind, "192.0.2.1", "eth0", outcome, door if seen else "", int(seen)))
    return made


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "node")
    (tmp_path / "evidence/egress").mkdir(parents=True)
    (tmp_path / "evidence/egress/gpu-1.pub").write_text(made.key + "\n")
    return made


def measured(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Talk | None = None) -> WaysOut:
    monkeypatch.setattr(egress, "_ask", lambda connection, after: said or node.talk())
    return waysout.measured(INVENTORY, tmp_path / "ca", HOSTS[:1])[0]


def prove(node: Node, found: Found) -> None:
    """A record as the unit on the node writes it."""
    node.log.append("proof", found.body())


def test_a_shut_node_is_told_with_what_its_last_proof_counted(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(node, Found(attempts=attempts(refused=3, sent=1), faults=["frame got out"]))
    prove(node, Found(attempts=attempts(refused=20, blocked=12, unroutable=6)))
    ways = measured(node, tmp_path, monkeypatch)
    assert (ways.measured, ways.good, ways.tried, ways.refused, ways.unroutable, ways.problems) == (
        True,
        True,
        38,
        32,
        6,
        [],
    )
    assert waysout.line(ways, NOW) == "gpu-1: 38 ways out tried, all refused (6 of them for want of a route)"
    assert waysout.line(ways, NOW + timedelta(days=2)).endswith(f", last at {ways.at}")


def test_without_missing_routes_the_line_is_short(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(node, Found(attempts=attempts(refused=30, blocked=8)))
    assert waysout.line(measured(node, tmp_path, monkeypatch), NOW) == "gpu-1: 38 ways out tried, all refused"


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Found(attempts=attempts(refused=4, connected=2), faults=["tcp to 192.0.2.1 by eth0 got out"]), "got out"),
        (Found(attempts=attempts(refused=4, connected=2)), "2 of 6 attempts got out"),
        (Found(), "its last proof tried nothing"),
    ],
)
def test_an_open_node_is_never_told_shut(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found, problem: str
) -> None:
    prove(node, found)
    ways = measured(node, tmp_path, monkeypatch)
    assert ways.measured and not ways.good and problem in ways.problems[0]
    assert waysout.line(ways, NOW).startswith("gpu-1: NOT PROVED SHUT: ") and "all refused" not in waysout.line(
        ways, NOW
    )


@pytest.mark.parametrize(
    "sums", [None, 5, {"tcp": 3}, {"tcp": {"tried": "9", "denied": True}}, {"tcp": {"tried": -4, "denied": -4}}]
)
def test_counts_that_are_none_prove_nothing(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sums: Any
) -> None:
    node.log.append("proof", {"good": True, "attempts": sums})
    ways = measured(node, tmp_path, monkeypatch)
    assert not ways.good and ways.problems == ["its last proof tried nothing"]


def test_a_node_that_does_not_answer_is_not_known_and_one_that_lies_is_not_good(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(node, Found(attempts=attempts(refused=4)))
    lost = measured(node, tmp_path, monkeypatch, Talk(255, (), "no route to host", ""))
    assert not lost.measured and not lost.good
    assert (
        waysout.line(lost, NOW) == "gpu-1: whether anything gets out is not known: it cannot be asked: no route to host"
    )
    lines = [line for _, line in node.talk().lines]
    changed = [re.sub(rb'("tried": ?)2', rb"\g<1>9", line) for line in lines]
    assert changed != lines
    lying = measured(node, tmp_path, monkeypatch, node.talk(lines=changed))
    assert lying.measured and not lying.good


def test_the_keys_are_looked_for_where_the_playbooks_pin_them(tmp_path: Path) -> None:
    from tests.demo import TREE

    text = (TREE / "playbooks/group_vars/all.yml").read_text()
    assert """appliance_firewall_evidence_dir: "{{ appliance_ca_dir | dirname }}/evidence\"""" in text
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert waysout.directory(tmp_path / "link/ca") == tmp_path / "real/evidence"


def test_only_nodes_that_run_the_release_are_asked() -> None:
    outcome = Outcome("d-1", False, "", "", nodes={h.name: {"ok": 1, "changed": 0} for h in HOSTS})
    outcome.failures = [Failure("gpu-1", "Start", "vllm", "no memory")]
    outcome.rollout = Rollout(left_alone=["gpu-2"], stopped="too many failed")
    request = type("Request", (), {"inventory": INVENTORY})
    assert [h.name for h in installing._installed(request, outcome)] == ["gpu-3"]  # type: ignore[arg-type]


def test_the_end_of_an_install_says_both_halves_and_a_bad_one_is_not_called_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome(
        "d-1", False, "", "", nodes={"gpu-1": {"ok": 1, "changed": 3}}, phases_s={"total": 43.2}, good=True
    )
    outcome.egress = [WaysOut("gpu-1", True, True, 38, 38, 0, datetime.now(UTC).isoformat())]
    Screen().result({}, page(outcome))
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == ["gpu-1: 38 ways out tried, all refused", "d-1: installed in 43 s"]
    outcome.good, outcome.egress = (
        False,
        [WaysOut("gpu-1", True, False, 38, 37, 0, datetime.now(UTC).isoformat(), ["tcp got out"])],
    )
    Screen().result({}, page(outcome))
    told = capsys.readouterr().out.splitlines()
    assert told[-2] == "gpu-1: NOT PROVED SHUT: tcp got out" and "NOT INSTALLED" in told[-1]


def test_nodes_that_wait_for_their_window_are_named_and_not_called_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = {"gpu-1": {"ok": 1, "changed": 3}, "gpu-2": {"ok": 9, "changed": 1}}
    outcome = Outcome("d-1", False, "", "", nodes=nodes, phases_s={"total": 43.2}, good=True)
    outcome.waiting = {"gpu-2": "driver 580.178.04 needs a restart"}
    Screen().result({}, page(outcome))
    told = capsys.readouterr().out
    assert "gpu-2 waits and serves what it had: driver 580.178.04 needs a restart" in told
    assert "1 of 2 nodes wait for their maintenance window; run the same command again in it" in told
    assert "installed in" not in told
    request = type("Request", (), {"inventory": INVENTORY})
    assert [h.name for h in installing._installed(request, outcome)] == ["gpu-1"]  # type: ignore[arg-type]
