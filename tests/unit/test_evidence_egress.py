"""What the control host makes of a node's evidence: whose it is, how far it was seen, and what it says."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.egress_log import Bounds, EvidenceLog
from engine.talk import Talk
from installer.site import egress
from installer.site.inventory import Connection, Host, Inventory
from installer.site.settings import Control, Site

QUARTER = timedelta(minutes=15)


class Node:
    """A node's evidence, made by the engine, and what ssh would bring of it."""

    def __init__(self, place: Path) -> None:
        self.log = EvidenceLog(place, Bounds(segment_bytes=4000, segments=5, seal_every=4), node="gpu-1")
        self.log.ensure_key()

    def prove(self, count: int = 1, **body: Any) -> None:
        for _ in range(count):
            self.log.append("proof", {"good": True, **body})

    @property
    def key(self) -> str:
        return self.log.public().public_bytes_raw().hex()

    def talk(self, *, lines: list[bytes] | None = None) -> Talk:
        head = self.log.head()
        said = [json.dumps({"node": "gpu-1", "key": self.key, "head": asdict(head) if head else None}).encode()]
        for name, records in self.log.lines():
            said += [json.dumps({"segment": name}).encode(), *records]
        return Talk(0, tuple((0.0, line) for line in (said if lines is None else lines)), "", "")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


@pytest.fixture
def directory(tmp_path: Path, node: Node) -> Path:
    (tmp_path / "evidence/egress").mkdir(parents=True)
    (tmp_path / "evidence/egress/gpu-1.pub").write_text(node.key + "\n")
    return tmp_path / "evidence"


def collect(node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch, said: Talk | None = None) -> egress.Evidence:
    host = Host("gpu-1", "192.0.2.21", ("gpu",))
    site = Site(control=Control(address="192.0.2.5"), management_sources=("192.0.2.5",))
    inventory = Inventory(Path("site"), (host,), site, {"gpu-1": Connection("192.0.2.21")})
    monkeypatch.setattr(egress, "_ask", lambda connection, after: said or node.talk())
    return egress.collect(inventory, directory, (host,))[0]


def test_sound_evidence_is_good_and_remembered(node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node.prove(10)
    found = collect(node, directory, monkeypatch)
    assert found.good, found
    assert (found.proofs, found.bad_proofs, found.notes) == (10, 0, ["seen for the first time"])
    node.prove(30)
    again = collect(node, directory, monkeypatch)
    assert again.good, again
    head = node.log.head()
    assert head is not None
    assert json.loads((directory / "egress/gpu-1.seen").read_text())["n"] == head.n


def test_a_node_put_back_to_an_older_state_is_found_and_the_memory_stays(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.prove(3)
    old = node.talk()
    node.prove(3)
    assert collect(node, directory, monkeypatch).good
    before = (directory / "egress/gpu-1.seen").read_text()
    found = collect(node, directory, monkeypatch, old)
    assert "was seen before, but the chain ends" in found.problems[0]
    assert (directory / "egress/gpu-1.seen").read_text() == before


def test_a_bad_last_proof_is_told_in_its_words(node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node.prove()
    node.prove(good=False, faults=["the table netdev appliance is not loaded"])
    found = collect(node, directory, monkeypatch)
    assert not found.good
    assert (found.problems, found.last_faults) == ([], ["the table netdev appliance is not loaded"])
    node.prove()
    found = collect(node, directory, monkeypatch)
    assert found.good
    assert found.bad_proofs == 1


def test_another_key_than_the_one_pinned_is_refused(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Node(tmp_path / "other")
    other.prove(3)
    found = collect(other, directory, monkeypatch)
    assert "another key" in found.problems[0]
    (directory / "egress/gpu-1.pub").unlink()
    assert "no key of this node is pinned" in collect(node, directory, monkeypatch).problems[0]


def test_evidence_that_ends_too_early_is_late(node: Node) -> None:
    node.prove(3)
    later = datetime.now(UTC) + timedelta(hours=1)
    found = egress.Evidence("gpu-1")
    egress.judge(found, egress.understand(node.talk()), node.key, None, now=later, late_after=QUARTER)
    assert "the newest record is 60 min old" in found.problems[0]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Talk(255, (), "Permission denied (publickey)", ""), "cannot be asked: Permission denied"),
        (Talk(None, (), "", "time"), "took too long"),
        (Talk(None, (), "", "output"), "more than evidence may have"),
        (Talk(0, (), "", ""), "is no evidence"),
        (Talk(0, ((0.0, b"[]"),), "", ""), "is no evidence"),
        (Talk(0, ((0.0, b'{"key": "x"}'), (0.0, b"{}")), "", ""), "is no evidence"),
        (Talk(0, ((0.0, b'{"key": "x", "head": {"n": "1"}}'),), "", ""), "this is no head"),
        (Talk(0, ((0.0, b"nonsense"),), "", ""), "Expecting value"),
    ],
)
def test_what_a_node_says_instead_of_evidence_is_told_in_a_sentence(
    said: Talk, words: str, node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = collect(node, directory, monkeypatch, said)
    assert not found.good
    assert words in found.problems[0]


def test_another_machine_of_the_same_name_is_refused_until_an_operator_retires_the_first(
    node: Node, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.prove(5)
    assert collect(node, directory, monkeypatch).good
    other = Node(tmp_path / "other")
    other.prove(2)
    refused = collect(other, directory, monkeypatch)
    assert not refused.good and "`appliance retire gpu-1 -i SITE`" in refused.problems[0]
    assert (directory / "egress/gpu-1.pub").read_text().strip() == node.key  # nothing is taken over by itself
    assert egress.retire(directory, "gpu-1", datetime.now(UTC))
    unpinned = collect(other, directory, monkeypatch)
    assert "no key of this node is pinned" in unpinned.problems[0]
    (directory / "egress/gpu-1.pub").write_text(other.key + "\n")  # what the next install does
    assert collect(other, directory, monkeypatch).good
    assert len(list((directory / "egress").glob("gpu-1.*.until-*"))) == 2
