"""An installer and an engine of different versions: where that is seen, and what people read instead of how a program is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import installer
from engine.daytwo import look
from engine.talk import Talk
from installer.pki import utc_now
from installer.site import nodes, skew
from installer.site.connection import Connection
from installer.site.errand import Reply
from installer.site.events import Tracker
from installer.site.inventory import Host, Inventory
from installer.site.settings import Site
from installer.site.status import judged

NODE = Connection("192.0.2.21", user="root")


def engine(*words: str) -> Talk:
    """What this tree's engine says on a node."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "engine.cli", *words], capture_output=True, text=True, check=False
    )
    return Talk(done.returncode, tuple((0.0, line.encode()) for line in done.stdout.splitlines()), done.stderr, "")


@pytest.mark.parametrize(
    ("words", "skewed"),
    [
        (("generation", "swap"), True), (("generation", "list", "--deep"), True), (("hologram",), True), (("firewall", "melt"), True),
        (("generation", "switch", "--to", "999"), False), (("verify", "/nowhere", "--root", "/nowhere"), False),
    ],
)  # fmt: skip
def test_a_question_that_an_engine_does_not_know_is_told_with_both_versions(
    words: tuple[str, ...], skewed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, asked = engine(*words), list[str]()

    def talk(argv: list[str], **_: Any) -> Talk:
        asked.append(argv[-1])
        here = b"/opt/appliance/current/engine/lib/python3.11/site-packages/appliance_engine-0.0.7.dist-info"
        return Talk(0, ((0.0, here),), "", "") if "dist-info" in argv[-1] else said

    monkeypatch.setattr(nodes, "talk", talk)
    monkeypatch.setattr(skew, "talk", talk)
    reply = nodes.call(NODE, words, timeout_s=5)
    assert reply.data is None and reply.reached and not reply.absent
    if skewed:
        asks = " ".join(w for w in words[:2] if not w.startswith("-"))
        assert reply.failure.startswith(
            f"its engine 0.0.7 does not know what this installer {installer.__version__} asks ({asks}). "
        )
        assert "usage" not in reply.failure and "choice" not in reply.failure
    else:
        assert "does not know what this installer" not in reply.failure and len(asked) == 1


def test_a_node_that_does_not_tell_its_version_is_told_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "talk", lambda *_, **__: engine("generation", "swap"))
    monkeypatch.setattr(skew, "talk", lambda *_, **__: Talk(255, (), "ssh: no route", ""))
    assert nodes.call(NODE, ("generation", "swap"), timeout_s=5).failure.startswith(
        "its engine, of an unknown version, does not know"
    )


@pytest.mark.parametrize(
    ("code", "stderr", "found"),
    [
        (1, "/opt/x/python: No module named engine.egress", True),
        (1, "ModuleNotFoundError: No module named 'cryptography'", False),
        (2, "usage: rm [-f]\nrm: invalid option", False),
        (0, "usage: appliance-engine VERB …", False),
        (2, json.dumps({"error": {"what": "error: unrecognized arguments: x", "where": "", "remedy": ""}}), False),
        (None, "error: unrecognized arguments: --x", False),
    ],
)
def test_only_what_an_engine_does_not_know_counts(code: int | None, stderr: str, found: bool) -> None:
    assert skew.unknown(code, stderr) is found


def failed(tracker: Tracker, **result: Any) -> str:
    event = {"host": "gpu-1", "task": "Keep this state of the node", "role": "node", "res": result}
    tracker.handle({"event": "runner_on_failed", "event_data": event})
    return tracker.failures[0].reason


def test_a_role_that_asks_an_older_release_s_engine_too_much_says_so_in_words() -> None:
    said = engine("generation", "keep", "--colour=red")
    told = failed(Tracker(["gpu-1"], engine="0.0.7"), rc=said.code, stderr=said.stderr, msg="non-zero return code")
    assert told.startswith(f"its engine 0.0.7 does not know what this installer {installer.__version__} asks.")
    assert "usage" not in told
    other = failed(Tracker(["gpu-1"], engine="0.0.7"), rc=2, stderr="disk on fire", msg="non-zero return code")
    assert "disk on fire" in other and "0.0.7" not in other


def test_the_version_is_in_the_release_s_wheel_and_in_the_node_s_environment(tmp_path: Path) -> None:
    wheels = tmp_path / "content/installer/node"
    wheels.mkdir(parents=True)
    assert skew.of_release(tmp_path) == "" == look.engine_version(tmp_path / "engine")
    for name in ("appliance_engine-1.4.0-py3-none-any.whl", "cryptography-50.0.2-cp311-abi3-manylinux_2_34_x86_64.whl"):
        (wheels / name).touch()
    (tmp_path / "engine/lib/python3.11/site-packages/appliance_engine-1.4.0.dist-info").mkdir(parents=True)
    assert skew.of_release(tmp_path) == "1.4.0" == look.engine_version(tmp_path / "engine")


@pytest.mark.parametrize(("version", "warns"), [("0.0.7", True), (installer.__version__, False), ("", False)])
def test_status_names_a_difference_and_does_not_call_it_wrong(version: str, warns: bool) -> None:
    site = Site.model_validate({"control": {"address": "192.0.2.9"}, "management_sources": ["192.0.2.9"]})
    host = Host("gpu-1", "192.0.2.21", ("gpu",))
    facts: dict[str, Any] = {
        "release": {"current": "ours-1.0.0", "generation": "1", "engine": version}, "troubles": {}, "units": [], "services": [], "tokens": [],
        "certificates": {}, "firewall": None, "system": None, "disks": [], "verification": {},
    }  # fmt: skip
    seen = judged(host, Reply("gpu-1", facts), Inventory(Path("site"), (host,), site), utc_now())
    found = [f for f in seen.findings if f.check == "engine"]
    assert seen.data()["release"]["engine"] == version
    assert [(f.severity, f.what) for f in found] == (
        [("warn", f"its engine is 0.0.7, this installer is {installer.__version__}")] if warns else []
    )
