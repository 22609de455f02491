"""Commands name the next one, and what they name can be run."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from engine import durable
from installer.cli import plan as planning
from installer.cli import preflight as asking
from installer.cli.main import app, main
from installer.cli.nextstep import after_verify, command, given
from installer.cli.outcome import following as following_install
from installer.site.install import Outcome
from installer.site.inventory import Host, Inventory
from installer.site.plan import NodePlan, Plan
from installer.site.rollout import Rollout
from installer.site.settings import Site
from tests.bundles import PASSPHRASE

DEPOT = Path("/var/lib/appliance/depot")
KEYS = Path("/home/me/keys")
PLAN = Plan("d-1", "00" * 32, (NodePlan("n", ""),), (("n",),))


def options_of(line: str) -> list[str]:
    """The command of a suggestion, after a check that it and all its options exist."""
    found = re.match(r"(appliance .*?)(?: to (?:see|review) .*| for (?:a|the) .*|, .*)?$", line)
    assert found, line
    words = shlex.split(found[1])
    node: Any = get_command(app)
    rest = words[1:]
    while rest and hasattr(node, "get_command") and (below := node.get_command(None, rest[0])):
        node, rest = below, rest[1:]
    assert not hasattr(node, "list_commands"), f"{line} names no command"
    known = {opt for param in node.params for opt in param.opts}
    assert not [w for w in rest if w.startswith("-") and w not in known], line
    return words


def following(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[list[str], str]:
    """Run a command; what it names next, and its results."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    lines = [line.removeprefix("next: ") for line in told.err.splitlines() if line.startswith("next: ")]
    assert len(lines) <= 1 and "next:" not in told.out
    return (lines[0].split("; or ") if lines else []), told.out


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    durable.write(tmp_path / "passphrase", PASSPHRASE, mode=0o600)
    monkeypatch.setenv("APPLIANCE_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    return tmp_path / "passphrase"


def test_from_keys_to_a_verified_bundle_each_command_names_one_that_works(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert passphrase.is_file()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    definition, out = tmp_path / "a definition/tiny.yml", tmp_path / "drive"
    definition.parent.mkdir()
    (definition.parent / "data").write_bytes(b"data\n")
    text = {
        "schema": 1, "name": "tiny", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "files": [{"name": "data", "url": "file:data", "sha256": hashlib.sha256(b"data\n").hexdigest(), "profiles": ["gpu"]}],
    }  # fmt: skip
    definition.write_text(yaml.safe_dump(text))
    instead = {"DEFINITION.yml": str(definition), "DIRECTORY": str(out)}

    line, _ = following(capsys, "keys", "init", "--root-keys", "1", "--threshold", "1")
    for verb in ("lock", "build", "verify"):
        words = [instead.get(word, word) for word in options_of(line[0])]
        assert words[1] == verb
        line, _ = following(capsys, *words[1:])
    bundle = out / "tiny-1.0.0"
    assert options_of(line[0])[:3] == ["appliance", "kit", str(bundle)]
    assert line[1] == "carry the bundle to a site that has the kit"
    # A root of trust of its own: this is a site, and what comes is not a kit.
    line, _ = following(
        capsys, "verify", bundle, "--root", tmp_path / "config/appliance/keys/root.json", "--keys", KEYS
    )
    assert [options_of(one)[1] for one in line] == ["preflight", "install"]


def test_nothing_is_named_where_programs_read_or_nothing_was_written(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert following(capsys, "certs", "init", "--dir", tmp_path / "ca")[0] == []
    issue: list[str | Path] = ["certs", "client", "--dir", tmp_path / "ca", "--out", tmp_path / "my client"]
    line, _ = following(capsys, *issue, "a")
    files = tmp_path / "my client"
    assert line == [
        f"on the client: curl --cacert '{files}/ca.crt' --cert '{files}/a.crt' --key '{files}/a.key' https://GATEWAY:PORT/v1/models"
    ]
    none, out = following(capsys, "--json", *issue, "b")
    assert none == [] and json.loads(out)["certificate"].endswith("b.crt")
    assert following(capsys, "--quiet", *issue, "c")[0] == []
    assert passphrase.is_file()


def test_a_plan_s_approval_names_the_install_that_it_is_for(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert passphrase.is_file()
    following(capsys, "keys", "new", "alice", "--in", tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN.data()))
    line, out = following(
        capsys, "approve-plan", tmp_path / "plan.json", "--key", tmp_path / "alice.pub.json", "-o", tmp_path / "ok.json"
    )
    words = options_of(line[0])
    assert words[1] == "install" and words[-2:] == ["--plan-approval", str(tmp_path / "ok.json")]
    assert words[words.index("--plan") + 1] in out


@pytest.mark.parametrize(
    ("root", "partial", "verbs"),
    [
        (str(KEYS / "root.json"), False, ["kit"]),
        (str(DEPOT / "root.json"), False, ["preflight", "install"]),
        ("/root/starting-kit/root.json", False, ["preflight", "install"]),
        (str(DEPOT / "root.json"), True, ["import"]),
    ],
)
def test_after_a_good_bundle_it_depends_on_where_it_was_verified(root: str, partial: bool, verbs: list[str]) -> None:
    lines = after_verify(Path("/media/d-1"), root, [KEYS], DEPOT, partial=partial)
    commands = [options_of(line) for line in lines if line.startswith("appliance ")]
    assert [words[1] for words in commands] == verbs
    assert all("/media/d-1" in words for words in commands)
    assert all(("--root" in words) == (root == "/root/starting-kit/root.json") for words in commands)


def test_a_command_line_can_be_pasted_into_a_shell() -> None:
    line = command(
        "install", "-i", Path("my site"), *given("--ca", Path("/ca"), Path("/ca")), *given("--limit", "gpu;x")
    )
    assert line == "appliance install -i 'my site' --limit 'gpu;x'" and given("--root", None) == ()


SITE = {"control": {"address": "192.0.2.9"}, "management_sources": ["192.0.2.9"]}
SERVICE = {"name": "tiny", "model": "tiny", "served_name": "tiny"}


@pytest.mark.parametrize(
    ("about", "served", "verbs"),
    [
        ({"check": True}, True, [["install"]]),
        ({"nodes": {"n": {"ok": 1, "changed": 2}}}, True, [["certs", "client"], ["status"]]),
        ({"nodes": {"n": {"ok": 1, "changed": 2}}}, False, [["status"]]),
        ({"nodes": {"n": {"ok": 9, "changed": 0}}}, True, [["status"]]),
        (
            {"nodes": {"n": {"ok": 1, "changed": 2}}, "rollout": Rollout(stopped="a pause", paused=1)},
            True,
            [["install"]],
        ),
    ],
)
def test_after_an_install_it_depends_on_what_was_done(
    about: dict[str, Any], served: bool, verbs: list[list[str]]
) -> None:
    told: dict[str, Any] = {"release": "d-1", "check": False, "started": "", "log": ""} | about
    outcome = Outcome(**told)
    site = Inventory(
        Path("site"),
        (Host("n", "192.0.2.2", ("gpu",)),),
        Site.model_validate({**SITE, "services": [SERVICE] if served else []}),
    )
    lines = following_install(outcome, site, ("-i", Path("site"), Path("/media/d-1")), Path("/ca"), Path("site"))
    commands = [options_of(line)[1:] for line in lines]
    assert [words[: len(verb)] for words, verb in zip(commands, verbs, strict=True)] == verbs
    if verbs == [["install"]]:
        assert "--check" not in commands[0] and ("--continue" in commands[0]) == (outcome.rollout is not None)


def test_after_a_plan_it_depends_on_whether_the_depot_wants_it_approved() -> None:
    words, out = ("-i", Path("site"), Path("/media/d-1")), Path("change 4711.json")
    assert options_of(planning._following(PLAN, words, out, asks=False))[1:] == [
        "install",
        *map(str, words),
        "--plan",
        f"sha256:{PLAN.digest}",
    ]
    assert options_of(planning._following(PLAN, words, out, asks=True))[1:3] == ["approve-plan", "change 4711.json"]
    assert options_of(planning._following(PLAN, words, None, asks=True))[-2:] == ["--out", "PLAN.json"]


def test_nodes_that_are_fit_are_planned_or_looked_at_dry() -> None:
    lines = asking._following(("-i", Path("site"), *given("--root", Path("r.json")), Path("/media/d-1")))
    commands = [options_of(line) for line in lines]
    assert [words[1] for words in commands] == ["plan", "install"] and commands[1][-1] == "--check"
    assert all(words[2:7] == ["-i", "site", "--root", "r.json", "/media/d-1"] for words in commands)
