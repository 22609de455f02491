"""What status makes of records and of nodes' answers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.chat import CHAT, COMPLETIONS
from engine.daytwo import look
from engine.errors import ApplianceError
from engine.probe import Answer
from engine.talk import Talk
from installer.pki import Authority, utc_now
from installer.site import errand, records, status
from installer.site.errand import Reply
from installer.site.inventory import Connection, Host, Inventory
from installer.site.probescript import errand as script
from installer.site.probescript import errand_modules
from installer.site.settings import Site
from installer.trust import envelope
from tests import bundles

NOW = utc_now()
SECRET = "correct horse battery staple"
SITE = Site.model_validate(
    {
        "control": {"address": "192.0.2.9"},
        "management_sources": ["192.0.2.9"],
        "services": [{"name": "tiny", "model": "tiny", "served_name": "tiny"}],
    }
)
NODE = Host("gpu-1", "192.0.2.2", ("gateway", "gpu"))
INVENTORY = Inventory(Path("site"), (NODE,), SITE)


# -- on the node --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("template", "endpoint"), [(True, CHAT), (False, COMPLETIONS)])
def test_a_service_is_asked_as_clients_ask_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: bool, endpoint: str
) -> None:
    asked: list[tuple[bool, str]] = []

    def ask(socket: Path, served: str, timeout_s: float, *, chats: bool, task: str) -> Answer:
        asked.append((chats, task))
        return Answer(served, 1, 0.1, CHAT if chats else COMPLETIONS)

    (tmp_path / "model").mkdir()
    if template:
        (tmp_path / "model/chat_template.jinja").write_text("x")
    (tmp_path / "chat.yaml").write_text(f'# Managed\nmodel: "{tmp_path}/model"\nserved-model-name: "m"\n')
    monkeypatch.setattr(look, "CONFIGURATIONS", tmp_path)
    monkeypatch.setattr(look, "ask_token", ask)
    assert look.tokens({"chat": "m"}) == [{"service": "chat", "seconds": 0.1, "error": "", "endpoint": endpoint}]
    assert [t["endpoint"] for t in look.tokens({"unknown": "m"})] == [COMPLETIONS]
    look.tokens({"chat": "m"}, {"chat": "embed"})
    assert asked == [(template, ""), (False, ""), (template, "embed")]


# -- records ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff"])
def test_an_authority_that_is_not_one_is_a_trouble(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/ca.crt").write_bytes(damage)
    known = records.control(tmp_path / "none", tmp_path / "ca", tmp_path / "none")
    assert known["authorities"] == {} and known["troubles"] == [f"{tmp_path / 'ca/ca.crt'} cannot be read"]


def control_host(base: Path, *, good: bool = True, check: bool = False) -> list[str]:
    """The records of a control host after an install."""
    Authority(base / "ca").create("site CA", SECRET, now=NOW)
    made = bundles.make(base, {"files/a": b"a"}, now=NOW, days=20)
    (base / "depot/bundles").mkdir(parents=True)
    made.path.rename(base / "depot/bundles/demo-1.0.0")
    run = base / "runs/20261121T080000.000000Z"
    run.mkdir(parents=True)
    said = {
        "release": "demo-1.0.0",
        "check": check,
        "started": "2026-11-21T08:00:00+00:00",
        "good": good,
        "proof": [{"good": good}],
    }
    (run / "report.json").write_text(json.dumps(said))
    key = envelope.site_key(base / "site", SECRET)
    envelope.seal(json.dumps(said), status.REPORT, run / "report.dsse.json", key, SECRET)
    return [w for n in ("depot", "ca", "runs") for w in (f"--{n}", str(base / n))]


def run_status(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "installer", *words], capture_output=True, text=True, check=False)


def test_the_records_of_a_control_host_are_shown_without_asking_a_node(tmp_path: Path) -> None:
    told = run_status(["status", "--offline", *control_host(tmp_path)])
    assert told.returncode == 0 and "demo-1.0.0" in told.stdout and "1 of 1 proofs, signed" in told.stdout
    assert "control  ca: " in told.stdout


@pytest.mark.parametrize(
    ("days", "code", "words"),
    [
        (20 - 31, 0, ""),
        (0, 0, "WARN: the metadata of demo-1.0.0 (snapshot) expires in"),
        (14, 5, "FAIL: the metadata of demo-1.0.0"),
        (19.5, 5, "expires in 0 days"),
        (21, 5, "expired"),
    ],
)
def test_metadata_that_ends_is_said_in_time(days: float, code: int, words: str, tmp_path: Path) -> None:
    """T48: at 30, 7, 1 and 0 days; the clock is moved, not the metadata."""
    control_host(tmp_path)
    known = records.control(tmp_path / "depot", tmp_path / "ca", tmp_path / "runs", NOW + timedelta(days=days))
    told = "\n".join(records.lines(known))
    if words:
        assert words.split(" (", maxsplit=1)[0] in told
    else:
        assert "WARN" not in told and "FAIL" not in told
    assert any(s == "fail" for s, _, _ in records.findings(known)) == (code == 5)


def test_a_failed_install_and_a_damaged_record_are_said(tmp_path: Path) -> None:
    places = control_host(tmp_path, good=False)
    (tmp_path / "depot/bundles/demo-1.0.0/metadata/timestamp.json").write_text("{")
    told = run_status(["status", "--offline", *places])
    assert told.returncode == 5
    assert "did not end well" in told.stdout and "timestamp.json cannot be read" in told.stdout


def test_dry_runs_are_no_installs_and_nothing_at_all_is_said_plainly(tmp_path: Path) -> None:
    control_host(tmp_path, check=True)
    assert records.newest(tmp_path / "runs") == {}
    nothing = [w for n in ("depot", "ca", "runs") for w in (f"--{n}", str(tmp_path / "none" / n))]
    assert run_status(["status", "--offline", *nothing]).stdout == "control  no record of an install here\n"


# -- nodes ------------------------------------------------------------------------------------------
def facts(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What a node that is well says."""
    authority = Authority(tmp_path / "ca")
    if not authority.exists():
        authority.create("site CA", SECRET, now=NOW)
    _, certificate = authority.issue(kind="node", name="gpu-1", names=["gpu-1"], passphrase=SECRET, days=90, now=NOW)
    unit = {"sub": "running", "result": "success", "enabled": "enabled", "since": 1, "restarts": 0, "active": "active"}
    names = status.expected_units(NODE, INVENTORY)
    well: dict[str, Any] = {
        "troubles": {}, "seconds": 0.1,
        "release": {"current": "demo-1.0.0", "generation": ""},
        "units": [{**unit, "name": n} for n in names],
        "services": [{"service": "tiny", "as_written": True, "compiles": False}],
        "tokens": [{"service": "tiny", "seconds": 0.2, "error": ""}],
        "certificates": {
            "node.crt": certificate.decode(), "ca.crt": authority.certificate_path.read_text(), "crl.pem": authority.crl_path.read_text(),
        },
        "firewall": {"loaded": "active", "pending": False, "unguarded": [], "refused": {"inet.egress_denied": 3}, "last": {}},
        "system": {"time": NOW.timestamp(), "uptime_s": 9.0, "kernel": "6.1", "reboot": []},
        "disks": [{"path": "/", "size": 100, "free": 50, "inodes_free": 9}],
        "verification": {},
    }  # fmt: skip
    return {**well, **changes}


def judge(value: Mapping[str, Any], now: datetime = NOW) -> status.NodeStatus:
    return status.judged(NODE, Reply("gpu-1", value), INVENTORY, now)


def test_a_node_that_is_well_has_no_findings(tmp_path: Path) -> None:
    seen = judge(facts(tmp_path))
    assert seen.good and seen.findings == () and seen.days["node.crt"] == 90


@pytest.mark.parametrize(
    ("changes", "check", "severity", "words"),
    [
        ({"units": []}, "units", "fail", "appliance-firewall.service is not there"),
        ({"services": [{"service": "tiny", "as_written": False, "compiles": True}]}, "services", "fail", "tiny runs with another configuration"),
        ({"tokens": [{"service": "tiny", "seconds": 0, "error": "the model answers 500"}]}, "tokens", "fail", "no token"),
        ({"firewall": {"loaded": "closed", "pending": False, "unguarded": [], "refused": {}, "last": {}}}, "firewall", "fail", "closed"),
        ({"firewall": {"loaded": "active", "pending": False, "unguarded": ["eth9"], "refused": {}, "last": {}}}, "firewall", "warn", "eth9"),
        ({"firewall": None, "troubles": {"firewall": "nft is not installed"}}, "firewall", "fail", "nft is not installed"),
        ({"disks": [{"path": "/", "size": 100, "free": 4, "inodes_free": 9}]}, "disks", "fail", "4.0 % of / are free"),
        ({"system": {"time": 0, "uptime_s": 9.0, "kernel": "6.1", "reboot": []}}, "clock", "warn", "clock is off"),
        ({"verification": {"good": False, "bad": 2}}, "verification", "fail", "found 2 bad files"),
        ({"release": {"current": "", "generation": ""}}, "release", "fail", "nothing is installed"),
        ({"certificates": {}}, "certificates", "fail", "node.crt is missing"),
        ({"units": "x"}, "answer", "fail", "cannot be understood"),
        ({"disks": [{}]}, "answer", "fail", "cannot be understood"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node_is_named(
    changes: dict[str, Any], check: str, severity: str, words: str, tmp_path: Path
) -> None:
    found = [f for f in judge(facts(tmp_path, **changes)).findings if f.check == check]
    assert found and words in found[0].what and found[0].severity == severity and found[0].remedy


@pytest.mark.parametrize(("day", "severity"), [(59, None), (61, "warn"), (84, "fail"), (90.5, "fail")])
def test_a_certificate_that_ends_is_said_in_time(day: float, severity: str | None, tmp_path: Path) -> None:
    told = facts(tmp_path)
    at = NOW + timedelta(days=day)
    told["system"]["time"] = at.timestamp()
    found = [f.severity for f in judge(told, at).findings if f.check == "certificates"]
    assert found == ([severity] if severity else [])


def test_words_of_a_node_cannot_steer_a_terminal(tmp_path: Path) -> None:
    told = facts(tmp_path, tokens=[{"service": "tiny", "seconds": 0, "error": "\x1b[2Jgone\n"}])
    assert all(f.what.isprintable() for f in judge(told).findings)


def test_the_newest_report_counts_only_with_this_sites_signature(tmp_path: Path) -> None:
    control_host(tmp_path)
    places = status.Places(tmp_path / "depot", tmp_path / "ca", tmp_path / "runs", tmp_path / "site")

    def look() -> status.Status:
        return status.status(INVENTORY, places, now=NOW, send=lambda h, *_: Reply(h.name, facts(tmp_path)))

    assert look().good and look().proof == "signed by this site"
    sealed = next((tmp_path / "runs").glob("*/report.dsse.json"))
    said = json.loads(sealed.read_text())
    said["payload"] = base64.b64encode(b'{"good": true}').decode()
    sealed.write_text(json.dumps(said))
    assert not look().good and look().proof == "NOT THIS SITE'S"


# -- errands ----------------------------------------------------------------------------------------
def answered(*lines: bytes, stderr: str = "", code: int = 0) -> Talk:
    return Talk(code, tuple((0.0, line) for line in lines), stderr, "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answered(b"w answer {", b"x"), "cannot be understood"),
        (answered(b"w answer []"), "cannot be understood"),
        (answered(b'w answer {"a": ' + b"[" * 30 + b"]" * 30 + b"}"), "cannot be understood"),
        (answered(b"other answer {}"), "cannot be understood"),
        (answered(b"w old 3.9"), "too old"),
        (answered(stderr="ssh: connect to host", code=255), "cannot be reached"),
        (answered(b'w answer {"error": {"what": "no \\u001b[2J", "where": "/x", "remedy": "mend"}}'), "/x: no "),
    ],
)
def test_an_answer_is_believed_only_when_it_is_one(said: Talk, words: str) -> None:
    reply = errand.understand(said, "w", NODE, Connection("192.0.2.2"))
    assert reply.value is None and words in reply.what and reply.what.isprintable()


def test_what_is_sent_runs_on_a_bare_python_and_refusals_come_back() -> None:
    """Nothing beside the standard library, no file, and an unknown unit of ours is an answer and no traceback."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-B", "-"],
        input=script("remove", {"owns": [{"role": "r", "directories": ["/etc"]}]}, "w"), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    word, verb, body = done.stdout.split(b" ", 2)
    assert (word, verb) == (b"w", b"answer") and "cannot be owned" in json.loads(body)["error"]["what"]
    assert {"engine/daytwo/remove.py", "engine/firewall.py", "engine/daytwo/redact.py"} <= errand_modules().keys()


def test_what_is_sent_lacks_no_module_that_it_imports(tmp_path: Path) -> None:
    archive = tmp_path / "sent.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name, path in errand_modules().items():
            out.write(path, name)
    names = [n.removesuffix(".py").replace("/", ".") for n in errand_modules() if n.startswith("engine/daytwo/")]
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(archive)!r}); [importlib.import_module(n) for n in {names!r}]"
    )
    subprocess.run(["/usr/bin/python3", "-I", "-S", "-B", "-c", code], check=True, timeout=60)


def test_one_node_that_cannot_be_asked_does_not_hide_the_others() -> None:
    hosts = [replace(NODE, name=n) for n in ("a", "b", "c")]

    def ask(host: Host) -> Reply:
        if host.name == "b":
            raise ApplianceError("ssh is not installed", remedy="Install it.")
        return Reply(host.name, {})

    assert [r.value is not None for r in errand.everywhere(hosts, ask)] == [True, False, True]
