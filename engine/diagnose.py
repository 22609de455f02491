"""What a node knows about its own trouble, kept on the node before a switch or a reboot ends it.

For the operator of this node: it holds what root can see. `appliance doctor` makes the bundle that may leave the site.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.durable import disk_errors, sync_dir
from engine.errors import ApplianceError
from engine.process import run

DIRECTORY = Path("/var/lib/appliance/diagnostics")
KEEP = 5
COMMANDS = {
    "units.txt": ["systemctl", "status", "--no-pager", "--full", "--lines=0", "appliance-*", "opt-appliance-*"],
    "journal.txt": ["journalctl", "--no-pager", "--lines=4000", "-o", "short-precise", "-u", "appliance-*"],
    "kernel.txt": ["journalctl", "--no-pager", "--dmesg", "--lines=2000", "-o", "short-precise"],
    "processes.txt": ["ps", "-eo", "pid,ppid,user,stat,etime,rss,wchan:20,comm"],
    "network.txt": ["ss", "-tlnp"],
    "disks.txt": ["df", "-h"],
    "gpus.json": ["/opt/appliance/current/engine/bin/appliance-engine", "nvml", "show"],
}
TIMEOUT_S = 10.0


def capture(directory: Path, reason: str) -> Path:
    """Ask everything, keep the answers as one archive readable by root alone, and drop the oldest.

    Raises:
        ResourceError: the disk is full.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = directory / f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}.tar.gz"
    with disk_errors(final), tempfile.TemporaryDirectory(dir=directory, prefix=".") as scratch:
        place = Path(scratch)
        (place / "reason.txt").write_text(f"{reason}\n")
        for name, argv in COMMANDS.items():
            (place / name).write_text(_answer(argv))
        temporary = place / "all.tar.gz"
        with tarfile.open(temporary, "w:gz") as archive:
            for name in ("reason.txt", *COMMANDS):
                archive.add(place / name, arcname=f"{final.name.removesuffix('.tar.gz')}/{name}")
        temporary.chmod(0o600)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        shutil.move(temporary, final)
        sync_dir(directory)
    for old in sorted(directory.glob("*.tar.gz"))[:-KEEP]:
        old.unlink()
    return final


def _answer(argv: Sequence[str]) -> str:
    """What a command says; one that fails is an answer, too."""
    try:
        done = run(argv, ok=range(256), timeout_s=TIMEOUT_S)
    except ApplianceError as error:
        return f"{error}\n"
    return done.stdout + done.stderr


def main(argv: Sequence[str]) -> int:
    """`appliance-engine diagnose`: prints where the archive is, as JSON."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine diagnose", description="Keep what this node knows about its own trouble."
    )
    parser.add_argument("--reason", default="asked for")
    asked = parser.parse_args(argv)
    sys.stdout.write(json.dumps({"path": str(capture(DIRECTORY, asked.reason))}) + "\n")
    return 0
