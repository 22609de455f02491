"""The same lock gives the same content, whoever builds it and wherever."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from installer.cli.options import default_cache
from tests.demo import TREE, Demo


def digests(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file below content/."""
    return {
        str(p.relative_to(bundle)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (bundle / "content").rglob("*")
        if p.is_file()
    }


@pytest.mark.slow
def test_another_builder_makes_the_same_bytes(demo: Demo, tmp_path: Path) -> None:
    """The whole demo bundle again: another host name, time zone, language, umask, home and directory.

    Only what was downloaded comes from the cache, for a second download would show nothing about this builder; our own
    wheels and the runtime image are built again.
    """
    cache = default_cache() / "sha256"
    image = json.loads((demo.bundle / "content/runtimes/vllm.json").read_text())["sha256"]
    (cache / image[:2] / image).unlink(missing_ok=True)
    for artifact in yaml.safe_load((TREE / "bundles/demo.lock.yml").read_text())["artifacts"]:
        if artifact["source"].startswith("build:"):
            (cache / artifact["sha256"][:2] / artifact["sha256"]).unlink(missing_ok=True)
    elsewhere = tmp_path / "another place"
    (elsewhere / "bundles").mkdir(parents=True)
    for name in ("demo.yml", "demo.pins.txt", "demo.lock.yml"):
        shutil.copy(TREE / "bundles" / name, elsewhere / "bundles" / name)
    shutil.copytree(TREE / "build" / "demo", elsewhere / "build" / "demo")
    command = [
        sys.executable, "-m", "installer", "build", "bundle", str(elsewhere / "bundles/demo.yml"),
        "--out", str(elsewhere / "out"), "--json",
    ]  # fmt: skip
    environment = {
        **demo.environment, "TZ": "Pacific/Auckland", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "HOME": str(elsewhere),
        "TMPDIR": str(elsewhere), "PYTHONHASHSEED": "4711", "PYTHONPATH": str(TREE), "COLUMNS": "40",
        "XDG_CACHE_HOME": str(default_cache().parent),
    }  # fmt: skip
    script = 'hostname another-builder && umask 077 && exec "$@"'
    done = subprocess.run(
        ["unshare", "--uts", "sh", "-c", script, "sh", *command],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    built = json.loads(done.stdout)
    ours, theirs = digests(demo.bundle), digests(Path(built["bundle"]))
    assert {p for p in ours.keys() | theirs.keys() if ours.get(p) != theirs.get(p)} == set()
    again = demo.appliance("inspect", demo.bundle, json_output=True)
    assert again["content_digest"] == built["content_digest"]
