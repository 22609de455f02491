"""The support bundle as a file: what opens it, and what it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.report import Silent
from installer.pki import Authority, utc_now
from installer.site.doctor import Diagnosis, doctor
from installer.site.errand import Reply
from installer.site.inventory import Connection, Host, Inventory
from installer.site.settings import Site
from installer.site.status import Places

SITE = Site.model_validate({"control": {"address": "192.0.2.9"}, "management_sources": ["192.0.2.9"]})
INVENTORY = Inventory(Path("site"), (Host("gpu-1", "192.0.2.2", ("gpu",)),), SITE)


def collect(place: Path, out: Path, files: Mapping[str, str]) -> Diagnosis:
    """One node that sends these texts."""

    def send(host: Host, _connection: Connection, verb: str, _question: Mapping[str, Any]) -> Reply:
        assert verb == "collect"
        return Reply(host.name, {"files": dict(files), "removed": {}, "troubles": {}})

    places = Places(place / "depot", place / "ca", place / "runs", place / "keys")
    return doctor(INVENTORY, places, out, Silent(), send=send)


def test_tar_alone_opens_it_and_a_certificate_in_it_is_whole_and_not_counted(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.create("site CA", "correct horse battery staple", now=utc_now())
    certificate = authority.certificate_path.read_text()
    out = tmp_path / "fault.tar.gz"
    done = collect(tmp_path, out, {"pki/ca.crt": certificate, "app.conf": "password: kUchen+teller9\n"})
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xzf", out, "-C", unpacked], check=True)
    node = unpacked / "doctor/nodes/gpu-1"
    assert (node / "pki/ca.crt").read_text() == certificate
    assert "kUchen" not in (node / "app.conf").read_text()
    assert done.removed == {"nodes/gpu-1/app.conf": {"value behind a name": 1}}
    listed = {e["path"] for e in json.loads((unpacked / "doctor/CONTENTS.json").read_bytes())}
    assert {"nodes/gpu-1/pki/ca.crt", "control/inventory.json", "REMOVED.json"} <= listed


def test_the_same_state_gives_the_same_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"
    collect(tmp_path, one, {"a": "x\n"})
    collect(tmp_path, two, {"a": "x\n"})
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", ["fault.tar.zst", "fault.tgz", "fault"])
def test_another_ending_is_refused_with_the_one_to_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        collect(tmp_path, tmp_path / name, {})
    assert "must end with .tar.gz" in refused.value.what and "--out NAME.tar.gz" in refused.value.remedy
    assert list(tmp_path.iterdir()) == []
