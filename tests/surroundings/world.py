"""What all commands work on: keys, bundles, a depot, an authority, a site whose node does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from engine import durable
from installer.depot import Depot
from installer.pki import Authority, utc_now
from installer.site.plan import NodePlan, Plan
from installer.site.status import REPORT
from installer.trust import envelope, sign, signer
from installer.trust.keys import KeyStore
from installer.trust.sign import Label
from tests import served, tenantsite
from tests.surroundings.process import ELSEWHERE

SECRET = "correct horse battery staple"
# No way leads to the node, so an attempt to log in ends at once; its address is one that nobody has.
TENANTS = (
    tenantsite.TENANTS
    + """\
    keys:
      - {id: team-b-1, sha256: "%s", created: 2026-11-01T00:00:00Z, expires: 2026-12-30T00:00:00Z}
"""
    % ("0" * 64)
)
UNREACHABLE = {"ansible_host": "192.0.2.9", "ansible_ssh_common_args": "-o ProxyCommand=false"}


def make(world: Path) -> None:
    """Fill an empty directory."""
    world.chmod(0o755)
    durable.write(world / "passphrase", SECRET, mode=0o600)
    now = utc_now()
    keys = KeyStore(world / "keys")
    keys.create(SECRET, root_keys=1, threshold=1, days=700, now=now)
    shutil.copy(keys.root_path, world / "root.json")
    _appliance(world, "keys", "export", world / "trust-update", "--keys", keys.directory)
    _bundles(world, keys)
    _media(world, keys)
    _control_host(world)
    _site(world)
    _appliance(world, "model", "demo", world / "model")


def _bundles(world: Path, keys: KeyStore) -> None:
    """A real one of one file, those whose content is a few bytes, and one that a site could serve."""
    (world / "def").mkdir()
    (world / "def/data").write_text("data\n")
    text = {
        "schema": 1, "name": "tiny", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "files": [{"name": "data", "url": "file:data", "sha256": _sha256(world / "def/data"), "profiles": ["gpu"]}],
    }  # fmt: skip
    (world / "def/tiny.yml").write_text(yaml.safe_dump(text))
    _appliance(world, "lock", world / "def/tiny.yml", "--cache", world / "cache")
    options: list[str | Path] = ["--cache", world / "cache", "--keys", keys.directory, "--out", world]
    _appliance(world, "build", "bundle", world / "def/tiny.yml", *options)
    (world / "tiny-1.0.0").rename(world / "bundle")
    for name, version, content in (("small", "1.0.0", b"a"), ("next", "1.1.0", b"b"), ("draft", "1.2.0", b"c")):
        bundle = world / name
        (bundle / "content/files").mkdir(parents=True)
        (bundle / "content/files/one").write_bytes(content)
        (bundle / "content/files/two").write_bytes(b"two" * 100_000)
        (bundle / "content/files/three").write_bytes(b"three" * 60_000)
        _sign(bundle, f"small-{version}", keys)
    for file, data in served.files().items():
        durable.write(world / "served/content" / file, data)
    _sign(world / "served", "small-1.3.0", keys)


def _sign(bundle: Path, release: str, keys: KeyStore) -> None:
    paths = [str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()]
    targets = sign.targets_of(sign.digests_of(bundle, paths), lambda path: Label(path.split("/")[1], ("gpu",)))
    # An hour ago, so that what a command signs is newer.
    at = utc_now() - timedelta(hours=1)
    sign.sign(bundle, targets, name="small", release=release, keys=keys, passphrase=SECRET, days=300, now=at)


def _media(world: Path, keys: KeyStore) -> None:
    """The small bundle over two volumes, and a third that makes either again."""
    pinned: list[str | Path] = ["--root", world / "root.json"]
    _appliance(world, "split", world / "small", "--size", "1450K", "--parity", "1", "--out", world / "volumes", *pinned)
    assert len(list((world / "volumes").iterdir())) == 3


def _control_host(world: Path) -> None:
    """Depots, an authority that issued a certificate, the site's key, a signed report of an install, people's keys."""
    for depot, bundle in (("depot", "small"), ("depot-of-bundle", "bundle")):
        Depot(world / depot).import_bundle(world / bundle, root_json=world / "root.json")
    authority = Authority(world / "ca")
    authority.create("site CA", SECRET, now=utc_now())
    authority.issue(kind="client", name="team-b", names=[], passphrase=SECRET, days=30, now=utc_now())
    signer.new_file(world / "people", "alice", SECRET)
    key = envelope.site_key(world / "site-keys", SECRET)
    said = {
        "release": "small-1.0.0", "check": False, "started": "2026-11-21T08:00:00+00:00", "good": True,
        "proof": [{"good": True}], "nodes": {"node-1": {"changed": 1}},
    }  # fmt: skip
    run = world / "runs/20261121T080000.000000Z"
    durable.write(run / "report.json", json.dumps(said))
    envelope.seal(json.dumps(said), REPORT, run / "report.dsse.json", key, SECRET)
    shutil.copy(run / "report.dsse.json", world)
    plan = Plan("small-1.0.0", "0" * 64, (NodePlan("node-1", ""),), (("node-1",),))
    durable.write(world / "change.json", json.dumps(plan.data()))
    (world / "evidence").mkdir()
    (world / ELSEWHERE).mkdir()


def _site(world: Path) -> None:
    """One node that is everything, and out of reach."""
    node = {**UNREACHABLE, "ansible_user": "root"}
    hosts: dict[str, Any] = {
        "all": {"children": {"gateway": {"hosts": {"node-1": node}}, "gpu": {"hosts": {"node-1": None}}}}
    }
    # The bundle has no model, so nothing is served.
    settings = {"appliance_site": {"control": {"address": "127.0.0.1"}, "management_sources": ["127.0.0.1"]}}
    (world / "site/group_vars/all").mkdir(parents=True)
    (world / "site/hosts.yml").write_text(yaml.safe_dump(hosts))
    (world / "site/group_vars/all/site.yml").write_text(yaml.safe_dump(settings))
    hosts["all"]["children"]["gateway"]["hosts"]["node-1"] = {**UNREACHABLE, "ansible_user": "root"}
    tenantsite.write(world / "tenants-site", TENANTS, hosts)


def environment(world: Path) -> dict[str, str]:
    """What a command finds in its environment where nothing is amiss; how packages are reached is the machine's own."""
    return {
        **os.environ, "APPLIANCE_PASSPHRASE_FILE": str(world / "passphrase"), "HOME": "/root",
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "100", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def _appliance(world: Path, *argv: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "installer", *map(str, argv)],
        env=environment(world), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
