"""How long a person or a script waits before a command does anything."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from installer.pki import Authority, utc_now
from tests import bundles
from tests.bench.measure import Claim, Pair, Run, command

BARE, ANSIBLE = "python3 -c pass", "ansible --version"
CLAIMS = (
    Claim("help", "s", BARE, 3.0),
    Claim("help-against-ansible", "s", ANSIBLE, 0.5),
    Claim("version", "s", BARE, 3.0),
    Claim("depot-list", "s", BARE, 3.0),
    Claim("status-offline", "s", BARE, 3.0),
    Claim("depot-list-against-ansible", "s", ANSIBLE, 0.5),
    Claim("command-help-against-ansible", "s", ANSIBLE, 0.5),
)


def pairs(work: Path, _only: str) -> Iterator[Pair]:
    """`depot list` stands for every command that looks at local state and says it; `verify --help` for all others."""
    (work / "depot/bundles/demo-1.0.0").mkdir(parents=True)
    bare, ansible = command(sys.executable, "-c", "pass"), command(_script("ansible"), "--version")
    listing = _appliance("depot", "list", "--depot", str(work / "depot"), "--json")
    yield Pair("help", _appliance("--help"), bare)
    yield Pair("help-against-ansible", _appliance("--help"), ansible)
    yield Pair("version", _appliance("--version"), bare)
    yield Pair("depot-list", listing, bare)
    yield Pair("status-offline", _status(work), bare)
    yield Pair("depot-list-against-ansible", listing, ansible)
    yield Pair("command-help-against-ansible", _appliance("verify", "--help"), ansible)


def _status(work: Path) -> Run:
    """Records as an install leaves them: an authority, the metadata of a release, a run."""
    authority = Authority(work / "ca")
    authority.create("site CA", "correct horse battery staple", now=utc_now())
    release = bundles.make(work / "made", {"files/a": b"a"})
    shutil.copytree(release.path, work / "full/bundles/made-1.0.0")
    run = work / "runs/20261121T080000.000000Z"
    run.mkdir(parents=True)
    said = {
        "release": "made-1.0.0",
        "check": False,
        "started": "2026-11-21T08:00:00+00:00",
        "good": True,
        "proof": [{"good": True}],
    }
    (run / "report.json").write_text(json.dumps(said))
    (run / "report.dsse.json").write_text("{}")
    places = ["--depot", str(work / "full"), "--ca", str(work / "ca"), "--runs", str(work / "runs")]
    return _appliance("status", "--offline", *places)


def _appliance(*argv: str) -> Run:
    return command(_script("appliance"), *argv)


def _script(name: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / name
