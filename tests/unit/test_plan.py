"""The plan as a document: what the digest covers, what is shown, what of a release counts as changed, and who must agree."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine import durable
from engine.errors import InputError, TrustError
from engine.report import Silent
from engine.trust import Target
from installer.cli.install import planned
from installer.depot import Depot
from installer.site import approved
from installer.site.events import Tracker
from installer.site.install import Request
from installer.site.inventory import Inventory
from installer.site.plan import NodePlan, Plan, batches_of, content_changes, differences, file_change
from installer.site.settings import Control, Site
from installer.trust import planapproval, signer
from tests.bundles import PASSPHRASE

UNIT = "/etc/systemd/system/appliance-vllm@.service"
NODE = NodePlan("gpu-1", "d-1", ("vllm: Install the template unit",), (file_change(UNIT, "a\n", "b\n"),))
PLAN = Plan("d-2", "00" * 32, (NODE, NodePlan("gpu-2", "d-2")), (("gpu-1",),))


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, release="d-3"),
        replace(PLAN, content_sha256="01" * 32),
        replace(PLAN, batches=(("gpu-1",), ("gpu-2",))),
        replace(PLAN, nodes=(replace(NODE, before="d-0"), PLAN.nodes[1])),
        replace(PLAN, nodes=(replace(NODE, tasks=()), PLAN.nodes[1])),
        replace(PLAN, nodes=(replace(NODE, files=(file_change(UNIT, "a\n", "c\n"),)), PLAN.nodes[1])),
        replace(PLAN, nodes=(replace(NODE, leaves=("chat",)), PLAN.nodes[1])),
        replace(PLAN, policy={"rolling": {"batch": 2}}),
    ],
)
def test_whatever_would_be_done_differently_is_another_plan(other: Plan) -> None:
    assert other.digest != PLAN.digest
    assert f"sha256:{other.digest}" in differences(other, f"sha256:{PLAN.digest}")
    assert differences(PLAN, PLAN.digest) == "" == differences(PLAN, f"sha256:{PLAN.digest}")


def test_a_plan_is_named_by_its_digest_or_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "change.json"
    durable.write(file, json.dumps(PLAN.data()))
    assert planned(str(file)) == f"sha256:{PLAN.digest}"
    assert [planned(n) for n in ("", PLAN.digest, f"sha256:{PLAN.digest}")] == [
        "",
        PLAN.digest,
        f"sha256:{PLAN.digest}",
    ]
    with pytest.raises(InputError, match="cannot read the plan"):
        planned("change-4711.jsn")


def test_texts_are_shown_for_rules_and_units_and_never_for_configurations() -> None:
    shown, hidden = (
        file_change(UNIT, "User=a\n", "User=b\n"),
        file_change("/etc/appliance/vllm/chat.env", "TOKEN=old", "TOKEN=new"),
    )
    assert "-User=a" in shown.diff and "+User=b" in shown.diff
    assert "TOKEN" not in json.dumps(hidden.__dict__)
    assert hidden.digest != file_change("/etc/appliance/vllm/chat.env", "TOKEN=old", "TOKEN=newer").digest
    huge = file_change(UNIT, "", "x" * 100_000)
    assert len(huge.diff) < 21_000 and "more" in huge.diff


def test_only_nodes_that_change_are_in_batches() -> None:
    assert batches_of(replace(PLAN, batches=(("gpu-1", "gpu-2"), ("gpu-2",)))) == [["gpu-1"]]


def test_packages_have_versions_and_trees_a_digest() -> None:
    def targets(*lines: tuple[str, str]) -> dict[str, Target]:
        return {path: Target(path, 1, sha) for path, sha in lines}

    old = targets(
        ("content/debs/pool/nginx-light_1.22-1_all.deb", "a"), ("content/debs/pool/nvidia-smi_535.1_amd64.deb", "b"),
        ("content/models/chat/w", "c"), ("content/models/same/w", "d"),
    )  # fmt: skip
    new = targets(
        ("content/debs/pool/nginx-light_1.24-1_all.deb", "a2"), ("content/debs/pool/nvidia-smi_1%3a550.1_amd64.deb", "b2"),
        ("content/models/chat/w", "c2"), ("content/models/same/w", "d"), ("content/sbom/x", "e"),
    )  # fmt: skip
    found = [(c.kind, c.name, c.before, c.after) for c in content_changes(old, new)]
    assert ("package", "nginx-light", "1.22-1", "1.24-1") in found
    assert ("driver", "nvidia-smi", "535.1", "1:550.1") in found
    assert [name for kind, name, _, _ in found if kind == "model"] == ["chat"]
    assert len(found) == 3
    assert {c.kind for c in content_changes(None, new)} == {"driver", "model"}


def test_differences_of_files_come_from_what_the_dry_run_says() -> None:
    tracker = Tracker(["n"])
    result = {"changed": True, "dest": UNIT, "diff": [{"before": "a\n", "after": "b\n"}]}
    tracker.handle({"event": "runner_item_on_ok", "event_data": {"host": "n", "res": result}})
    fetched = {"stdout": json.dumps({"release": "d", "missing": 2, "lacking_bytes": 5000})}
    tracker.handle({"event": "runner_on_ok", "event_data": {"host": "n", "res": fetched}})
    tracker.handle({"event": "runner_on_ok", "event_data": {"host": "n", "res": {"diff": "nonsense", "stdout": "[1"}}})
    assert tracker.nodes["n"].diffs == {UNIT: ("a\n", "b\n")}
    assert tracker.nodes["n"].fetch_bytes == 5000


class People:
    """A depot's directory, a plan in a file, and two people of whom both must agree."""

    def __init__(self, place: Path) -> None:
        self.place, self.directory = place, place / "trust"
        self.directory.mkdir()
        self.keys = [signer.new_file(place / n, n, PASSPHRASE) for n in ("alice", "bob")]
        self.stranger = signer.new_file(place / "eve", "eve", PASSPHRASE)
        durable.write(place / "plan.json", json.dumps(PLAN.data(), indent=1))
        planapproval.require_from_now_on(self.directory, self.keys, 2)

    def sign(self, who: signer.KeyFile, *, digest: str = PLAN.digest, late: bool = False) -> Path:
        out = self.place / f"{who.name}-{len(list(self.place.iterdir()))}.json"
        now = datetime.now(UTC) - timedelta(days=30 if late else 0)
        planapproval.approve(digest, 7, out, who, PASSPHRASE, lambda _what: "", now)
        return out


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


def test_two_keys_agree_to_one_plan(people: People) -> None:
    assert planapproval.digest_of(people.place / "plan.json") == PLAN.digest
    files = tuple(people.sign(k) for k in people.keys)
    assert planapproval.judge(people.directory, PLAN.digest, files) == ["alice", "bob"]


def test_one_person_twice_a_stranger_another_plan_and_a_late_word_do_not_count(people: People) -> None:
    alice, bob = people.keys
    with pytest.raises(TrustError, match="2 of alice, bob must agree to a plan here, 1 did"):
        planapproval.judge(people.directory, PLAN.digest, (people.sign(alice), people.sign(alice)))
    for bad, why in (
        (people.sign(people.stranger), "none of alice, bob signed it"),
        (people.sign(bob, digest="11" * 32), "it is for the plan sha256:1111"),
        (people.sign(bob, late=True), "it ended"),
    ):
        with pytest.raises(TrustError, match=why):
            planapproval.judge(people.directory, PLAN.digest, (people.sign(alice), bad))


def test_the_policy_is_settled_once_and_a_damaged_one_stops(people: People) -> None:
    with pytest.raises(InputError, match="settled already"):
        planapproval.require_from_now_on(people.directory, people.keys, 1)
    (people.directory / planapproval.POLICY).write_text("{}")
    with pytest.raises(TrustError, match="cannot read who must agree"):
        planapproval.judge(people.directory, PLAN.digest, ())


def test_what_is_no_plan_is_not_signed(tmp_path: Path) -> None:
    (tmp_path / "p").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="this is no plan"):
        planapproval.digest_of(tmp_path / "p")


def test_a_depot_without_a_policy_asks_nobody(tmp_path: Path) -> None:
    assert planapproval.judge(tmp_path, PLAN.digest, ()) == []


def test_an_install_that_would_do_anything_but_the_plan_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def make(request: Request, *_: object) -> Plan:
        asked.append(request)
        return PLAN

    monkeypatch.setattr("installer.site.planning.make", make)
    site = Site(control=Control(address="192.0.2.5"), management_sources=("192.0.2.0/24",))
    inventory = Inventory(tmp_path, (), site)
    request = Request(inventory, Depot(tmp_path), *(tmp_path,) * 4, plan=f"sha256:{PLAN.digest}")
    assert approved.require(request, Silent(), lambda *_: None) == (PLAN.digest, [])
    assert asked[0].check, "the plan is made by looking alone"
    with pytest.raises(
        TrustError, match=f"the plan of now is sha256:{PLAN.digest}, not sha256:{'0' * 64}; nothing was done"
    ):
        approved.require(replace(request, plan="sha256:" + "0" * 64), Silent(), lambda *_: None)
