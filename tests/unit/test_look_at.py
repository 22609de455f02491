"""A dry run looks at a bundle where it lies: what it shows is the verified metadata, and an account that can be read."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from engine import metadata
from engine.copying import read_target
from engine.report import Silent
from engine.verify import open_bundle
from installer.carry import delta
from installer.depot import Depot
from installer.site import release
from tests.bundles import NOW, Bundle, MemoryKeys, make


def bundle(tmp_path: Path, keys: MemoryKeys, version: str, hours: int) -> Bundle:
    files = {
        "manifest.json": json.dumps({"version": version}).encode(),
        "models/m/w": b"w" * 5000,
        "files/v": version.encode(),
    }
    return make(tmp_path / version, files, keys=keys, version=version, now=NOW - timedelta(hours=hours))


def test_a_bundle_and_a_delta_are_shown_whole_and_their_account_is_read_without_following_links(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys")
    old, new = bundle(tmp_path, keys, "1.0.0", 2), bundle(tmp_path, keys, "1.1.0", 1)
    (tmp_path / "root.json").write_bytes(keys.roots[1])
    depot = Depot(tmp_path / "depot")
    depot.import_bundle(old.path, root_json=tmp_path / "root.json")
    trusted = open_bundle(new.path, keys.roots[1])
    have = [t.sha256 for t in open_bundle(old.path, keys.roots[1]).targets.values()]
    part = delta.write(new.path, trusted, tmp_path / "delta", have).path
    for given in (new.path, part):
        with release.to_look_at(depot, given, None, Silent()) as shown:
            assert metadata.read(shown.view).content == metadata.read(given).content
            for target in trusted.targets.values():
                assert (shown.view / target.path).read_bytes() == (new.path / target.path).read_bytes()
            manifest = trusted.targets["content/manifest.json"]
            assert json.loads(read_target(shown.view, manifest, 1 << 20)) == {"version": "1.1.0"}
            assert (shown.view / "content/models/m/w").is_symlink(), "large files are not copied for a look"
        assert not shown.view.exists()
    assert depot.releases() == ["demo-1.0.0"]
