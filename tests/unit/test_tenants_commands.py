"""`appliance tenants` as a person or a program meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.errors import ApplianceError, NodeError
from engine.gateway import keys
from installer.cli.main import app
from installer.site import inventory as inventories
from installer.site import nodes, unchanged
from installer.site.events import NodeState
from installer.site.holds import GATEWAY, demand
from installer.site.playbooks import Playbooks
from installer.site.tenants import apply as applying
from installer.site.variables import variables
from tests import tenantsite as lab


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_site_without_tenants_says_how_to_get_them(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site", gateway={})
    (place / "tenants.yml").unlink()
    for words in (
        ("check",),
        ("show",),
        ("new-key", "team-a"),
        ("revoke-key", "a"),
        ("apply", "--runs", tmp_path / "runs"),
        ("report",),
    ):
        with pytest.raises(ApplianceError, match="has no tenants"):
            run("tenants", *words, "-i", place)
    made = json.loads(run("tenants", "new", "-i", place, "--site", "lab"))
    assert made["file"] == str(place / "tenants.yml")


def test_a_key_is_shown_once_listed_without_itself_and_taken_out_again(tmp_path: Path) -> None:
    place = lab.write(tmp_path / "site")
    assert json.loads(run("tenants", "check", "-i", place)) == {
        "ok": True,
        "tenants": ["team-a", "team-b"],
        "models": ["tiny"],
    }
    made = json.loads(run("tenants", "new-key", "team-b", "-i", place, "--days", "30"))
    assert keys.FORM.fullmatch(made["key"])
    shown = run("tenants", "show", "-i", place)
    assert made["key"] not in shown
    assert keys.digest(made["key"]) not in shown
    (found,) = json.loads(shown)["tenants"][1]["keys"]
    assert (found["id"], found["state"]) == ("team-b-1", "valid")
    assert json.loads(run("tenants", "revoke-key", "team-b-1", "-i", place)) == {"tenant": "team-b", "id": "team-b-1"}
    assert json.loads(run("tenants", "show", "-i", place))["tenants"][1]["keys"] == []


def test_apply_brings_files_that_are_gone_afterwards_and_says_what_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def play(self: Playbooks, name: str, wanted: list[str]) -> None:
        folder = Path(self.variables["appliance_gateway_folder"])
        seen.update(
            name=name, nodes=list(wanted), check=self.check, text=(folder / "gateway.yml").read_text(), folder=folder
        )
        seen["mode"] = (folder / "gateway.yml").stat().st_mode & 0o777
        state: NodeState = self.tracker.nodes["gw-1"]
        state.changed, state.diffs[applying.CONFIGURATION] = 1, ("a: 1\n", "a: 2\n")

    monkeypatch.setattr(Playbooks, "run", play)
    place = lab.write(tmp_path / "site")
    told = json.loads(run("tenants", "apply", "-i", place, "--runs", tmp_path / "runs", "--dry-run"))
    assert (seen["name"], seen["nodes"], seen["check"], seen["mode"]) == ("tenants.yml", ["gw-1"], True, 0o600)
    assert "team-a" in seen["text"]
    assert not seen["folder"].exists()
    assert told["changed"] and "+a: 2" in told["differences"][applying.CONFIGURATION]


def test_a_report_of_a_node_that_does_not_answer_is_a_fault_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "call", lambda *_, **__: nodes.Reply(None, "it cannot be reached"))
    with pytest.raises(NodeError, match="cannot be reached"):
        run("tenants", "report", "-i", lab.write(tmp_path / "site"))


def test_a_release_without_the_gateway_is_refused_before_any_node_is_asked(tmp_path: Path) -> None:
    found = inventories.load(lab.write(tmp_path / "site"))
    with pytest.raises(ApplianceError, match="does not hold the gateway"):
        demand(found, "demo-1.0.0", {})
    with pytest.raises(ApplianceError, match="holds no such model"):
        demand(found, "demo-1.0.0", {GATEWAY: None})  # type: ignore[dict-item]


def test_another_key_is_a_reason_to_look_at_the_gateway_host_alone(tmp_path: Path) -> None:
    def made_from(place: Path) -> dict[str, str]:
        found = inventories.load(place)
        return unchanged.inputs(found, variables(found, "demo-1.0.0", {}), tmp_path, tmp_path)

    place = lab.write(tmp_path / "site")
    before = made_from(place)
    run("tenants", "new-key", "team-a", "-i", place)
    after = made_from(place)
    assert {n for n in before if before[n] != after[n]} == {"gw-1"}
