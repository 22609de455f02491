"""`appliance generations`: what is asked of nodes, what is confirmed first, and what is told of their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine.errors import InputError
from installer.cli.main import app
from installer.site import errand
from installer.site.errand import Reply
from installer.site.inventory import Host

LISTED: dict[str, Any] = {
    "current": 2,
    "switching": None,
    "generations": [
        {
            "number": 1,
            "release": "ours-1.0.0",
            "made": "2026-05-01T10:00:00+00:00",
            "digest": "a",
            "differs": ["/etc/x"],
        },
        {"number": 2, "release": "ours-1.1.0", "made": "2026-06-01T10:00:00+00:00", "digest": "b", "differs": []},
    ],
}
GONE: dict[str, Any] = {
    "generations": [1], "removed": ["/opt/appliance/releases/ours-1.0.0"], "freed_bytes": 30_000_000_000,
    "kept": [{"number": 2, "release": "ours-1.1.0"}],
}  # fmt: skip


class Nodes:
    """Three nodes; ``says`` are their answers by name, and ``asked`` what they were asked."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.asked = base, list[tuple[str, str, Mapping[str, Any]]]()
        self.says: dict[str, Reply] = {}
        place = base / "plant-7"
        (place / "group_vars/all").mkdir(parents=True)
        hosts = {f"gpu-{n}": {"ansible_host": f"192.0.2.{20 + n}"} for n in (1, 2, 3)}
        (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {"gpu": {"hosts": hosts}}}}))
        site = {
            "control": {"address": "192.0.2.9"},
            "management_sources": ["192.0.2.9"],
            "client_sources": ["192.0.2.64/26"],
        }
        (place / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))
        monkeypatch.setattr(errand, "send", self._send)

    def _send(self, host: Host, _connection: Any, verb: str, question: Mapping[str, Any], **_: Any) -> Reply:
        self.asked.append((host.name, verb, question))
        return self.says.get(host.name, Reply(host.name, GONE if question["keep"] else LISTED))

    def command(self, *words: str, answer: str = "", as_json: bool = True) -> Any:
        argv = [*(["--json"] if as_json else []), "generations", *words, "-i", str(self.base / "plant-7")]
        return CliRunner().invoke(app, argv, input=answer)


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(tmp_path, monkeypatch)


def test_the_list_shows_every_state_and_which_one_runs(nodes: Nodes) -> None:
    nodes.says["gpu-2"] = Reply("gpu-2", None, "cannot be reached over SSH", "Check that it runs.")
    nodes.says["gpu-3"] = Reply("gpu-3", {"current": 0, "switching": None, "generations": []})
    done = nodes.command("list", as_json=False)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert done.exit_code == 5
    assert lines[1:3] == ["gpu-1 1 ours-1.0.0 2026-05-01 10:00 1", "gpu-1 2 ours-1.1.0 2026-06-01 10:00 0 runs"]
    assert lines[3:5] == ["gpu-2 FAILED", "gpu-3 keeps none"]
    assert lines[5] == "gpu-2: FAILED: cannot be reached over SSH. Check that it runs."


def test_nothing_is_removed_before_the_site_is_named(nodes: Nodes) -> None:
    refused = nodes.command("prune", answer="plant-8\n")
    assert isinstance(refused.exception, InputError) and "'plant-8' is not the site's name" in refused.exception.what
    assert nodes.asked == []
    runs = ("--runs", str(nodes.base / "runs"))
    assert nodes.command("prune", *runs, answer="plant-7\n").exit_code == 0
    assert {(v, q["keep"], q["check"]) for _, v, q in nodes.asked} == {("states", 1, False)}


def test_a_dry_run_asks_nobody_for_a_name_and_nodes_to_change_nothing(nodes: Nodes) -> None:
    done = nodes.command("prune", "--check", "--keep", "2", "--limit", "gpu-2")
    told = json.loads(done.stdout)
    assert [(n, q) for n, _, q in nodes.asked] == [("gpu-2", {"keep": 2, "check": True})]
    assert (told["site"], told["keep"], told["check"]) == ("plant-7", 2, True)
    assert told["nodes"] == [{"node": "gpu-2", "error": "", "remedy": "", **GONE}]


def test_what_goes_what_stays_and_what_that_frees_is_told(nodes: Nodes) -> None:
    nodes.says["gpu-2"] = Reply("gpu-2", {"generations": [], "removed": [], "freed_bytes": 0, "kept": []})
    nodes.says["gpu-3"] = Reply("gpu-3", None, "a switch to generation 1 has begun and not ended", "End it first.")
    done = nodes.command("prune", "--yes", "--runs", str(nodes.base / "runs"), as_json=False)
    assert done.exit_code == 5
    assert done.stdout.splitlines() == [
        "gpu-1: removed generations 1: 30.0 GB are free again",
        "  /opt/appliance/releases/ours-1.0.0",
        "  keeps 2 (ours-1.1.0)",
        "gpu-2: nothing to remove",
        "gpu-3: FAILED: a switch to generation 1 has begun and not ended. End it first.",
    ]


@pytest.mark.parametrize(
    "value", [{"generations": "x"}, {"generations": [None]}, {"generations": [{"number": "\x1b[2J"}]}, {}]
)
def test_what_a_broken_node_answers_ends_without_a_traceback(nodes: Nodes, value: dict[str, Any]) -> None:
    nodes.says["gpu-1"] = Reply("gpu-1", value)
    done = nodes.command("list", as_json=False)
    assert done.exit_code == 0 and "\x1b" not in done.stdout


@pytest.mark.parametrize("keep", ["0", "-1", "many"])
def test_a_node_keeps_at_least_what_it_runs(nodes: Nodes, keep: str) -> None:
    done = nodes.command("prune", "--keep", keep, "--yes")
    assert done.exit_code != 0 and nodes.asked == []
