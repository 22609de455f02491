"""Going back to an older release where a second person must agree: who, to what, for how long, and once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.errors import ApplianceError, InputError, TrustError
from engine.memory import Demand, Downgrade
from engine.report import Silent
from installer.cli.main import app
from installer.depot import Depot
from installer.site import release
from installer.site.release import Age
from installer.site.unchanged import NodeNow
from installer.trust import downgrade, signer
from installer.trust.signer import KeyFile
from tests.bundles import NOW, PASSPHRASE, Bundle, MemoryKeys, make

REASON = "1.1.0 loses requests, change 4711"


class Site:
    """A depot that has seen 1.1.0, the bundle 1.0.0, and people with keys of their own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        keys = MemoryKeys(place / "keys")
        self.old = make(place / "old", {"files/a": b"old"}, keys=keys, now=NOW - timedelta(hours=1))
        self.new = make(place / "new", {"files/a": b"new"}, keys=keys, version="1.1.0")
        self.depot = Depot(place / "depot")
        (place / "root.json").write_bytes(self.old.root)
        (place / "secret").write_text(PASSPHRASE)
        (place / "secret").chmod(0o600)
        self.before, self.after = (self._version(b) for b in (self.new, self.old))
        for bundle in (self.old, self.new):
            self.depot.import_bundle(bundle.path, root_json=place / "root.json")
        self.step = Downgrade("demo", "demo-1.0.0", self.before, self.after)

    @staticmethod
    def _version(bundle: Bundle) -> int:
        return int(json.loads((bundle.path / "metadata/targets.json").read_bytes())["signed"]["version"])

    def person(self, name: str) -> KeyFile:
        return signer.new_file(self.place / name, name, PASSPHRASE)

    def asks(self, *names: str, threshold: int = 1) -> list[KeyFile]:
        people = [self.person(n) for n in names]
        downgrade.require_from_now_on(self.depot.memory().directory, people, threshold)
        return people

    def approval(self, who: KeyFile, step: Downgrade | None = None, *, days: int = 7, late: int = 0) -> Path:
        out = self.place / f"{who.name}-{len(list(self.place.iterdir()))}.json"
        now = NOW - timedelta(days=late)
        downgrade.approve(step or self.step, REASON, days, out, who, PASSPHRASE, lambda what: "", now)
        return out

    def back(self, *approvals: Path, reason: str = REASON) -> str:
        done = self.depot.import_bundle(self.old.path, demand=Demand(downgrade=reason, approvals=approvals))
        return done.trusted.release

    @property
    def record(self) -> list[dict[str, Any]]:
        path = self.depot.memory().overrides
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def types(self, *words: str | Path | int, ok: int = 0) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == ok, done.output
        said: dict[str, Any] = json.loads(done.stdout)
        return said


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_where_nobody_else_is_asked_the_operators_reason_is_enough_and_on_record(site: Site) -> None:
    assert site.back() == "demo-1.0.0"
    assert [(line["reason"], "approved" in line) for line in site.record] == [(REASON, False)]


def test_a_downgrade_needs_the_second_person_once_the_depot_asks_for_one(site: Site) -> None:
    [bob] = site.asks("bob")
    with pytest.raises(TrustError, match="1 of bob must agree to a downgrade here, 0 did") as refused:
        site.back()
    assert f"demo-1.0.0 --from {site.before} --to {site.after}" in refused.value.remedy
    assert site.record == []
    assert site.depot.memory().version("demo") == site.before
    assert site.back(site.approval(bob)) == "demo-1.0.0"
    [line] = site.record
    assert (line["from"], line["to"], line["approved"][0]["keyid"]) == (site.before, site.after, bob.public.keyid)


def test_two_of_three_are_two_different_people(site: Site) -> None:
    ann, bob, _ = site.asks("ann", "bob", "cho", threshold=2)
    with pytest.raises(TrustError, match="2 of ann, bob, cho must agree to a downgrade here, 1 did"):
        site.back(site.approval(ann), site.approval(ann))
    assert site.back(site.approval(ann), site.approval(bob)) == "demo-1.0.0"
    assert [a["by"] for a in site.record[0]["approved"]] == ["ann", "bob"]


def test_an_approval_serves_once(site: Site) -> None:
    [bob] = site.asks("bob")
    approval = site.approval(bob)
    site.back(approval)
    site.depot.import_bundle(site.new.path)
    with pytest.raises(TrustError, match="it was used before"):
        site.back(approval)
    assert site.back(site.approval(bob)) == "demo-1.0.0"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"release": "demo-0.9.0"}, "it is for demo-0.9.0"),
        ({"before": 99}, "from version 99"),
        ({"after": 1}, "to 1"),
    ],
)
def test_an_approval_of_another_step_does_not_count(site: Site, change: dict[str, Any], told: str) -> None:
    [bob] = site.asks("bob")
    with pytest.raises(TrustError, match=told):
        site.back(site.approval(bob, replace(Downgrade("", "demo-1.0.0", 100, site.after % 7 + 2), **change)))
    assert site.record == []


def test_a_late_approval_and_one_of_somebody_else_do_not_count(site: Site) -> None:
    [bob] = site.asks("bob")
    with pytest.raises(TrustError, match="it ended"):
        site.back(site.approval(bob, days=1, late=2))
    with pytest.raises(TrustError, match="none of bob signed it"):
        site.back(site.approval(site.person("eve")))


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[" * 9000, b'{"payload": "\\ud800"}', b"x" * (downgrade.MAX_APPROVAL + 1)]
)
def test_a_file_that_is_no_approval_is_a_sentence(site: Site, raw: bytes) -> None:
    site.asks("bob")
    (site.place / "junk").write_bytes(raw)
    with pytest.raises(ApplianceError, match=r"does not approve|cannot read the approval"):
        site.back(site.place / "junk")


def test_every_changed_bit_of_an_approval_is_refused(site: Site) -> None:
    [bob] = site.asks("bob")
    honest = site.approval(bob).read_bytes()
    said = downgrade._read(site.approval(bob), downgrade.policy(site.depot.memory().directory) or pytest.fail())[1]
    for at in range(0, len(honest), 3):
        (site.place / "bit").write_bytes(honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :])
        try:
            found = downgrade.judge(site.depot.memory().directory, site.step, (site.place / "bit",))
        except TrustError:
            continue
        assert [f["reason"] for f in found] == [said.reason]  # a bit of white space or of an unused field


def test_a_site_cannot_be_asked_no_more_by_damage(site: Site) -> None:
    site.asks("bob")
    path = site.depot.memory().directory / downgrade.POLICY
    for text in (
        "",
        "{}",
        "null",
        '{"schema": 1, "threshold": 0, "keys": []}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
    ):
        path.write_text(text)
        with pytest.raises(TrustError, match="who must agree"):
            site.back()
    with pytest.raises(InputError, match="settled already"):
        site.asks("eve")


def test_what_is_in_the_depot_already_goes_back_on_the_same_terms(site: Site) -> None:
    """`install --release OLD` imports nothing, and is the same step all the same."""
    [bob] = site.asks("bob")
    with pytest.raises(TrustError, match="1 of bob must agree"):
        release.of_depot(site.depot, "demo-1.0.0", Demand(downgrade=REASON), check=False)
    agreed = Demand(downgrade=REASON, approvals=(site.approval(bob),))
    assert release.of_depot(site.depot, "demo-1.0.0", agreed, check=False).view == site.depot.view("demo-1.0.0")
    assert site.depot.memory().version("demo") == site.after
    release.of_depot(site.depot, "demo-1.0.0", agreed, check=False)  # repeated after a stop: the step is done
    assert len(site.record) == 1


def test_what_every_node_runs_already_is_no_step_back(site: Site) -> None:
    """After an upgrade that failed, the release that still runs is installed again: no reason, no second person, no record."""
    site.asks("bob")
    depot, runs = site.depot, [NodeNow("a", "demo-1.0.0", 1), NodeNow("b", "demo-1.0.0", 4)]
    found = release.of_bundle(depot, site.old.path, None, Demand(), Silent())
    assert (found.name, found.imported_bytes) == ("demo-1.0.0", 0)
    told = release.age(depot, found.name, "", lambda: runs)
    assert (told.minimum_version, bool(told.reason)) == (site.after, True)
    assert depot.memory().version("demo") == site.before
    assert [r for r in site.record if "policy" not in r] == []
    assert release.age(depot, "demo-1.1.0", "", pytest.fail) == Age(site.before)


@pytest.mark.parametrize("other", ["demo-1.1.0", ""])
def test_one_node_that_runs_something_else_makes_it_a_step_back(site: Site, other: str) -> None:
    runs = [NodeNow("a", "demo-1.0.0", 1), NodeNow("b", other, 1)]
    with pytest.raises(TrustError, match=f"and b runs {other or 'no release'}"):
        release.age(site.depot, "demo-1.0.0", "", lambda: runs)


def test_a_new_node_gets_what_the_others_run_and_nothing_older(site: Site) -> None:
    """A machine is added or replaced while the site runs a release that is not the newest seen."""
    new, runs = NodeNow("c", new=True), [NodeNow("a", "demo-1.0.0", 1), NodeNow("b", "demo-1.0.0", 4)]
    told = release.age(site.depot, "demo-1.0.0", "", lambda: [*runs, new], pytest.fail)
    assert told == Age(site.after, "c joins the nodes of the site that run demo-1.0.0")
    # Alone, with --limit: the others are asked.
    assert release.age(site.depot, "demo-1.0.0", "", lambda: [new], lambda: [*runs, new]) == told
    with pytest.raises(TrustError, match="and c runs no release"):
        release.age(site.depot, "demo-1.0.0", "", lambda: [new], lambda: [NodeNow("a", "demo-1.1.0", 1), new])
    with pytest.raises(TrustError, match=r"and a runs demo-1\.1\.0"):
        release.age(site.depot, "demo-1.0.0", "", lambda: [NodeNow("a", "demo-1.1.0", 1), new], lambda: runs)
    with pytest.raises(TrustError, match="and c runs no release"):  # it does not answer, so nobody knows that it is new
        release.age(site.depot, "demo-1.0.0", "", lambda: [NodeNow("c", reached=False)], lambda: runs)


def test_an_older_bundle_that_was_changed_is_not_the_one_in_the_depot(site: Site) -> None:
    listed = site.old.path / "metadata/targets.json"
    listed.write_bytes(listed.read_bytes().replace(b"1.0.0", b"1.0.1", 1))
    with pytest.raises(TrustError):
        release.of_bundle(site.depot, site.old.path, None, Demand(), Silent())


def test_the_second_person_on_the_command_line(site: Site) -> None:
    bob, depot = site.person("bob"), ("--depot", site.depot.root)
    secret = ("--passphrase-file", site.place / "secret")
    site.types("trust", "require-approval", "--key", bob.path, *depot)
    assert site.types("trust", "show", *depot)["downgrade_needs"] == {"threshold": 1, "keys": ["bob"]}
    with pytest.raises(TrustError):
        site.types("import", site.old.path, *depot, "--allow-downgrade", REASON)
    step = ("demo-1.0.0", "--from", site.before, "--to", site.after, "--reason", REASON)
    file = site.place / "approval.json"
    with pytest.raises(InputError, match="without --allow-downgrade"):
        site.types("import", site.old.path, *depot, "--approval", file)
    told = site.types("trust", "approve-downgrade", *step, "--key", bob.path, "--out", file, *secret)
    assert told["by"] == bob.public.keyid
    done = site.types("import", site.old.path, *depot, "--allow-downgrade", REASON, "--approval", file)
    assert done["version"] == site.after
    settled, back = site.record
    assert "1 of bob" in settled["policy"]
    assert back["approved"][0]["by"] == "bob"
