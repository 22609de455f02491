"""A real Debian 13 node, without a network, installs real driver packages from a bundle's repository."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.process import run
from installer.definition import Definition
from installer.kinds import Work, debevidence, debs
from installer.lab.lab import up
from tests.integration import aptsite

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
PREPARE = """
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*
printf 'Types: deb\\nURIs: file:/srv/content/debs\\nSuites: ./\\nSigned-By: /srv/content/debs/appliance-archive.asc\\n' \
  > /etc/apt/sources.list.d/appliance.sources
ip link set host0 down
"""


def test_a_debian_13_node_takes_the_repository_and_installs_exactly_what_was_locked(name: str, tmp_path: Path) -> None:
    """Kernel and DKMS take minutes and are in docs/debs.md; the driver's own libraries and tool are here."""
    wanted = ["nvidia-smi", "libnvidia-ml1", "nvidia-persistenced"]
    text = {
        "schema": 1, "name": "test", "version": "1.0", "target": {"os": "debian-13", "python": "3.13"},
        "debs": {
            "sources": [{
                "builders": True, "suites": ["trixie", "trixie-updates", "trixie-security"],
                "components": ["main", "contrib", "non-free", "non-free-firmware"],
            }],
            "groups": [{"packages": wanted, "profiles": ["gpu"]}],
        },
    }  # fmt: skip
    key = aptsite.make_key(tmp_path / "key", "Site apt repository")
    work = Work(
        Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"), epoch=int(time.time()), apt_key=key
    )
    found = debs.resolve(work)
    debs.fetch(work, found)
    debs.check(work, found)
    debs.lay_out(work, found, tmp_path / "content")
    locked = {a.name: a.version for a in found if not debevidence.is_evidence(a)}

    lab = up(name, release="trixie", bind_ro=[f"{tmp_path / 'content'}:/srv/content"], owner_pid=os.getpid())

    # The network goes away for good, so one session does everything; a console would not end with it.
    install = f"DEBIAN_FRONTEND=noninteractive apt-get -y -q --no-install-recommends install {shlex.join(wanted)}"
    script = f"({PREPARE}\nset -ex\ntest -x /usr/bin/sqv\napt-get -q update\n{install}) > /root/log 2>&1; echo $? > /root/code; ip link set host0 up"
    start = ["systemd-run", "--quiet", "--unit=install", "bash", "-c", script]
    run([*lab.ssh(lab.nodes[0].address), shlex.join(start)], timeout_s=30)
    deadline = time.monotonic() + 180
    while (code := _read(lab.ssh(lab.nodes[0].address), "/root/code")) is None and time.monotonic() < deadline:
        time.sleep(1)
    log = _read(lab.ssh(lab.nodes[0].address), "/root/log") or ""
    assert code == "0", log
    assert "W:" not in log
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Status}\\n", *wanted]
    shown = run([*lab.ssh(lab.nodes[0].address), shlex.join(query)], timeout_s=30).stdout.splitlines()
    assert sorted(shown) == sorted(f"{n} {locked[n]} install ok installed" for n in wanted)
    assert all(locked[n].startswith("550.") for n in wanted)


def _read(ssh: list[str], path: str) -> str | None:
    """A file of the node; None while it cannot be reached or has no such file."""
    try:
        done = subprocess.run([*ssh, "cat", path], check=False, capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:  # connected just before the node took its network down
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
