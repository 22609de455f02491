"""What commands say: a fault before anything is asked or made, every one of them, once, and in the place for it."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import tree
from engine.blobs import Blobs
from engine.errors import Exit, InputError, NodeError, ResourceError, TrustError
from engine.report import Silent
from installer.bundle import lock
from installer.cli import commands
from installer.cli.main import main
from installer.cli.screen import counted
from installer.definition import Definition
from installer.depot import Depot
from installer.kinds import Work
from installer.pki import Authority, utc_now
from installer.site import doctor, generations, goback, inventory, planning, unchanged, uninstall, vllmflags
from installer.site.errand import Reply
from installer.site.install import Request
from installer.trust import downgrade, planapproval, signer
from tests.bundles import PASSPHRASE, make

HOSTS = """all:
  vars: {ansible_user: root}
  children:
    gateway: {hosts: {node-1: {ansible_host: 10.0.0.1}}}
    gpu: {hosts: {node-1: {}, node-2: {ansible_host: 10.0.0.2}, node-3: {ansible_host: 10.0.0.3}}}
"""
SITE = """appliance_site:
  control: {address: 10.0.0.9}
  management_sources: [10.0.0.9/32]
  client_sources: [10.0.1.0/24]
  services: [{name: chat, model: tiny, served_name: tiny}]
"""
WHY = "the host does not answer: " + "ssh: connect to host 10.0.0.2 port 22: No route to host " * 3


def told(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int) -> tuple[str, str]:
    """Both outputs of a command, which ends with this exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.out, said.err


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site/group_vars/all").mkdir(parents=True)
    (tmp_path / "site/hosts.yml").write_text(HOSTS)
    (tmp_path / "site/group_vars/all/site.yml").write_text(SITE)
    return tmp_path / "site"


def failed(node: str) -> Reply:
    return Reply(node, None, WHY, "Look at its network", unreachable=True)


def test_states_that_nodes_keep_are_a_table_and_failures_are_below_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"number": 3, "release": "ours-1.0.0", "made": "2026-01-01T10:00:00", "differs": []}
    good = Reply("node-1", {"current": 3, "generations": [state]})
    monkeypatch.setattr(generations, "kept", lambda *_: (good, failed("node-2")))
    out, _ = told(capsys, "generations", "list", "-i", site, code=Exit.NODE)
    row = next(line for line in out.splitlines() if line.startswith("node-2 "))
    assert row.split() == ["node-2", "FAILED"]
    assert out.count(WHY.strip()) == 1 and "node-2: FAILED: the host does not answer" in out


def test_doctor_tells_a_failure_once(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_send", lambda host, *_: failed(host.name))
    _, err = told(capsys, "doctor", "-i", site, "--out", tmp_path / "f.tar.gz", "--limit", "node-2", code=Exit.NODE)
    assert err.count("the host does not answer") == 1 and "Look at its network" in err


def test_uninstall_tells_a_failure_once(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uninstall, "_send", lambda host, *_: failed(host.name))
    argv: list[str | Path] = ["uninstall", "-i", site, "--check", "--limit", "node-2", "--runs", tmp_path / "runs"]
    out, err = told(capsys, *argv, code=Exit.NODE)
    assert (out + err).count("the host does not answer") == 1


def test_a_check_of_a_rollback_asks_for_no_passphrase(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("APPLIANCE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr(goback, "_aims", lambda *_: ({}, {}))
    argv: list[str | Path] = ["rollback", "-i", site, "--runs", tmp_path / "runs"]
    out, _ = told(capsys, *argv, "--check", code=0)
    assert "nothing was changed" in out
    assert "no passphrase for" in told(capsys, *argv, code=2)[1]


def test_a_plan_before_the_first_install_asks_for_no_passphrase(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reached(*_: object) -> None:
        raise InputError("the plan is made")

    monkeypatch.delenv("APPLIANCE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr(planning, "make", reached)
    argv: list[str | Path] = ["plan", "-i", site, "--ca", tmp_path / "ca", "--depot", tmp_path / "depot"]
    assert "the plan is made" in told(capsys, *argv, code=2)[1]
    Authority(tmp_path / "ca").create("site CA", PASSPHRASE, now=utc_now())
    assert "no passphrase for the site's certificate authority" in told(capsys, *argv, code=2)[1]


def test_who_must_agree_is_shown_with_the_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, depot = make(tmp_path, {"files/a": b"a"}), tmp_path / "depot"
    (tmp_path / "root.json").write_bytes(bundle.root)
    told(capsys, "import", bundle.path, "--root", tmp_path / "root.json", "--depot", depot, code=0)
    assert "must agree" not in told(capsys, "trust", "show", "--depot", depot, code=0)[0]
    bob, eve = (signer.new_file(tmp_path / "people", name, PASSPHRASE) for name in ("bob", "eve"))
    memory = Depot(depot).memory()
    downgrade.require_from_now_on(memory.directory, [bob], 1)
    planapproval.require_from_now_on(memory.directory, [bob, eve], 2)
    shown = told(capsys, "trust", "show", "--depot", depot, code=0)[0]
    assert "1 of bob must agree to a downgrade" in shown and "2 of bob, eve must agree to a plan" in shown
    assert '"plan_needs": {' in told(capsys, "--json", "trust", "show", "--depot", depot, code=0)[0]


def test_what_trust_show_advises_can_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = told(capsys, "trust", "show", "--depot", tmp_path / "nowhere", code=2)[1]
    assert "`appliance import BUNDLE --root ROOT.json`" in err and "Give --root" not in err


def request(site: Path, depot: Path) -> Request:
    nothing = depot / "nothing"
    return Request(
        inventory.load(site), Depot(depot), nothing, nothing, nothing, nothing, release="demo-1.0.0", check=True
    )


def test_a_plan_names_a_missing_model_before_a_node_is_asked(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, depot = make(tmp_path, {"models/other/config.json": b"{}"}), tmp_path / "depot"
    (tmp_path / "root.json").write_bytes(bundle.root)
    told(capsys, "import", bundle.path, "--root", tmp_path / "root.json", "--depot", depot, code=0)
    monkeypatch.setattr(unchanged, "ask", lambda *_: pytest.fail("a node was asked"))
    wanted = request(site, depot)
    new = replace(wanted, depot=Depot(tmp_path / "new"), bundle=bundle.path, root=tmp_path / "root.json")
    for asked in (wanted, replace(wanted, bundle=bundle.path), new):
        with pytest.raises(InputError, match="holds no such model"):
            planning.make(asked, Silent(), lambda *_: None)


def test_a_plan_names_every_node_that_cannot_be_asked(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {
        n: SimpleNamespace(node=n, reached=n == "node-1", drift=(f"{n} is down",))
        for n in ("node-1", "node-2", "node-3")
    }
    monkeypatch.setattr(planning, "_require_held", lambda *_: None)
    monkeypatch.setattr(unchanged, "ask", lambda *_: lost)
    with pytest.raises(NodeError) as met:
        planning.make(request(site, site), Silent(), lambda *_: None)
    assert "node-2 cannot be asked: node-2 is down" in met.value.what
    assert "node-3 cannot be asked: node-3 is down" in met.value.what
    assert "node-1" not in met.value.what and "leave them out" in met.value.remedy


def test_every_model_that_is_not_there_is_named_before_anything_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text: dict[str, Any] = {
        "schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "models": [{"name": n, "path": f"{n}-folder", "profiles": ["gpu"]} for n in ("one", "two", "three")],
    }  # fmt: skip
    (tmp_path / "two-folder").mkdir()
    monkeypatch.setattr(
        lock, "KINDS", {"wheels": SimpleNamespace(resolve=lambda _: pytest.fail("wheels were resolved"))}
    )
    with pytest.raises(InputError) as met:
        lock.resolve(Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache")))
    assert f"model one: there is no such model directory: {tmp_path / 'one-folder'}" in met.value.what
    assert "model three: " in met.value.what and "two" not in met.value.what


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, ResourceError), (errno.EIO, ResourceError), (errno.ELOOP, TrustError), (errno.ENXIO, TrustError)],
)
def test_a_file_of_a_bundle_that_may_not_be_read_is_not_called_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content/a").touch()
    honest = os.open

    def refuse(path: Any, *rest: Any, **named: Any) -> int:
        if path == "a":
            raise OSError(number, os.strerror(number), path)
        return honest(path, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises((ResourceError, TrustError)) as met:
        tree.open_beneath(tmp_path, "content/a")
    assert type(met.value) is kind
    if kind is ResourceError:
        assert met.value.where == str(tmp_path / "content/a") and met.value.exit_code == Exit.RESOURCE


def test_one_is_not_many() -> None:
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_usage_line_has_no_braces(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "{" not in told(capsys, name, "--help", code=0)[0].splitlines()[0]
    found = commands._load(name)
    for sub in getattr(found, "commands", {}):
        assert "{" not in told(capsys, name, sub, "--help", code=0)[0].splitlines()[0]


def test_the_next_step_after_a_kit_has_what_it_needs() -> None:
    text = (Path(commands.__file__).parent / "kit.py").read_text()
    assert all(f"'{option}'" in text for option in ("--from", "--root", "--node"))


FLAGS = {
    "max-model-len": "", "no-enable-prefix-caching": "", "enforce-eager": "",
    "max-model-length": "did you mean max-model-len?", "gpu-memory-utilisation": "did you mean gpu-memory-utilization?", "zzqqxx": "no such flag",
}  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_no_known_vllm_has_is_a_warning_with_its_line(site: Path, flag: str) -> None:
    (site / "group_vars/all/site.yml").write_text(
        SITE.replace("served_name: tiny}]", f"served_name: tiny, args: {{\n    {flag}: 1}}}}]")
    )
    warnings = inventory.load(site).leftovers
    assert [FLAGS[flag] in w.what for w in warnings] == ([True] if FLAGS[flag] else [])
    for warning in warnings:
        assert warning.where == f"{site}/group_vars/all/site.yml:6" and warning.key == f"services.0.args.{flag}"


def test_every_flag_of_the_product_s_own_is_known() -> None:
    root = Path(commands.__file__).resolve().parents[2]
    template = (root / "roles/vllm/templates/config.yaml.j2").read_text()
    own = [line.partition(":")[0] for line in template.splitlines() if line[:1].isalpha()]
    assert len(own) > 5 and all(map(vllmflags.is_known, own))
