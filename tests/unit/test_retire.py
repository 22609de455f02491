"""A machine that is gone, or whose name another one takes: what the control host lets go of, and what it keeps."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from engine.errors import InputError
from installer.cli.main import app
from installer.pki import Authority, utc_now
from installer.site import retire
from installer.site.inventory import Host, Inventory
from installer.site.ledger import Ledger
from installer.site.settings import Site

NOW = utc_now()
SECRET = "correct horse battery staple"
HOSTS = (Host("gpu-1", "192.0.2.21", ("gpu",)), Host("gpu-2", "192.0.2.22", ("gpu",)))
KINDS = ("pub", "seen")


class Control:
    """A control host that installed two nodes, lost gpu-2, and has a client that is called gpu-2, too."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.authority = Authority(base / "ca")
        self.authority.create("site CA", SECRET, now=NOW)
        for name in ("gpu-1", "gpu-2", "gpu-2"):
            self.issue("node", name)
        self.issue("client", "gpu-2")
        for directory in ("evidence/egress", "journal", "store"):
            (base / directory).mkdir(parents=True)
        for name in ("gpu-1", "gpu-2"):
            for end in KINDS:
                (base / f"evidence/egress/{name}.{end}").write_text(f"{name} {end}")
            (base / f"journal/{name}.journal-key").write_text(name)
            for end in ("recovery", "luks-header"):
                (base / f"store/{name}.{end}").write_text(name)
        (base / "runs").mkdir()
        Ledger(base / "runs").take_out({"gpu-2": ["chat"]}, "lost power")
        (base / "secret").write_text(SECRET)
        (base / "secret").chmod(0o600)
        self.site: dict[str, Any] = {
            "control": {"address": "192.0.2.9"},
            "management_sources": ["192.0.2.9"],
            "client_sources": ["192.0.2.64/26"],
            "baseline": {"journal_keys": str(base / "journal")},
            "model_store": {
                "device": "/dev/disk/by-id/virtio-models",
                "encryption": {"opened_by": "tpm2", "keys": str(base / "store")},
            },
        }
        self.inventory = Inventory(base / "site", HOSTS, Site.model_validate(self.site))
        self.places = retire.places(self.inventory, base / "ca", base / "runs", base / "evidence")

    def issue(self, kind: Any, name: str) -> None:
        self.authority.issue(kind=kind, name=name, names=[name], passphrase=SECRET, days=30, now=NOW)

    def known(self, node: str = "gpu-2") -> retire.Known:
        return retire.known(self.places, self.inventory, node)

    def revoked(self) -> list[tuple[str, str]]:
        return [(e.kind, e.name) for e in self.authority.register() if e.revoked]

    def files(self) -> set[str]:
        kept = ("evidence", "journal", "store")
        return {str(p.relative_to(self.base)) for d in kept for p in (self.base / d).rglob("*") if p.is_file()}

    def written(self) -> Path:
        """The same as an inventory on disk."""
        place = self.base / "site"
        (place / "group_vars/all").mkdir(parents=True)
        hosts = {h.name: {"ansible_host": h.address} for h in HOSTS}
        (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {"gpu": {"hosts": hosts}}}}))
        (place / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": self.site}))
        return place

    def command(self, *words: str, answer: str = "") -> Any:
        argv = [
            "--json",
            "retire",
            *words,
            "-i",
            str(self.base / "site"),
            "--passphrase-file",
            str(self.base / "secret"),
        ]
        argv += [w for n in ("ca", "runs", "evidence") for w in (f"--{n}", str(self.base / n))]
        return CliRunner().invoke(app, argv, input=answer)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def test_what_belongs_to_the_machine_is_revoked_or_put_aside_and_nothing_of_others(control: Control) -> None:
    before = control.files()
    moved = retire.retire(control.places, control.known(), SECRET, NOW)
    assert control.revoked() == [("node", "gpu-2")] * 2  # the client of that name is somebody else
    stamp = f".until-{NOW:%Y%m%dT%H%M%SZ}"
    mine = {f for f in before if "gpu-2" in f}
    assert len(mine) == 5 and control.files() == before - mine | {f + stamp for f in mine}
    assert {str(p.relative_to(control.base)) for p in moved} == {f + stamp for f in mine}
    assert (control.base / f"evidence/egress/gpu-2.pub{stamp}").read_text() == "gpu-2 pub"
    assert dict(Ledger(control.base / "runs").out) == {}


def test_a_second_time_finds_nothing_and_a_stopped_one_is_completed(control: Control) -> None:
    first = control.known()
    control.authority.revoke(first.certificates[0].serial, passphrase=SECRET, now=NOW)  # as far as it came
    assert len(control.known().certificates) == 1
    retire.retire(control.places, control.known(), SECRET, NOW)
    assert not control.known() and control.known().node == "gpu-2"


def test_the_next_machine_of_that_name_may_be_retired_too(control: Control) -> None:
    retire.retire(control.places, control.known(), SECRET, NOW)
    control.issue("node", "gpu-2")
    (control.base / "evidence/egress/gpu-2.pub").write_text("second")
    retire.retire(control.places, control.known(), SECRET, NOW + timedelta(days=1))
    kept = sorted((control.base / "evidence/egress").glob("gpu-2.pub.until-*"))
    assert [p.read_text() for p in kept] == ["gpu-2 pub", "second"]


def test_a_node_that_left_the_inventory_is_retired_and_an_unknown_one_is_named(control: Control) -> None:
    control.inventory = Inventory(control.base / "site", HOSTS[:1], control.inventory.site)
    assert len(control.known("gpu-2").certificates) == 2
    with pytest.raises(InputError, match="gpu-3 is not in the inventory, and nothing is on record of it"):
        control.known("gpu-3")


@pytest.mark.parametrize("name", ["../ca/ca", "/etc/passwd", "", "a/b", "gpu-2\n"])
def test_no_name_leads_to_another_directory(control: Control, name: str) -> None:
    with pytest.raises(InputError, match="is not the name of a node"):
        control.known(name)


def test_a_wrong_passphrase_changes_nothing(control: Control) -> None:
    before = control.files()
    with pytest.raises(InputError, match="cannot open the key"):
        retire.retire(control.places, control.known(), "wrong", NOW)
    assert control.files() == before and control.revoked() == [] and "gpu-2" in Ledger(control.base / "runs").out


def test_the_command_shows_asks_and_does(control: Control) -> None:
    control.written()
    before = control.files()
    shown = json.loads(control.command("gpu-2", "--check").stdout)
    assert (len(shown["revoked"]), len(shown["put_away"]), shown["out_of_service"]) == (2, 5, True)
    assert control.files() == before and control.revoked() == []
    refused = control.command("gpu-2", answer="gpu-1\n")
    assert refused.exit_code != 0 and isinstance(refused.exception, InputError) and control.files() == before
    done = control.command("gpu-2", answer="gpu-2\n")
    assert done.exit_code == 0, done.output
    assert control.revoked() == [("node", "gpu-2")] * 2 and not control.known()
    again = json.loads(control.command("gpu-2", "--yes").stdout)
    assert again["revoked"] == again["put_away"] == []
