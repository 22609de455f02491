"""However a lab ends, nothing of it stays on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from installer.lab import state
from installer.lab.lab import down, sweep, up
from tests.nodes.traces import nspawn_locks, traces

pytestmark = pytest.mark.nodes
TREE = Path(__file__).resolve().parents[2]


def test_down_leaves_nothing_and_may_be_repeated(name: str) -> None:
    assert traces(name) == set()
    locks = nspawn_locks()
    up(name, nodes=2, owner_pid=os.getpid())
    kinds = {line.split()[0] for line in traces(name)}
    assert kinds == {"process", "mount", "interface", "table", "group", "file"}
    assert len(nspawn_locks() - locks) >= 2
    own = nspawn_locks() - locks
    assert down(name)
    assert traces(name) == set()
    assert own.isdisjoint(nspawn_locks())
    assert not down(name)


# Where the owner is killed: while it says that line, or, for a tool, right after it started the tool and did not wait.
POINTS = [
    "say network", "tool nft", "tool ip", "say disks", "tool mount", "tool ssh-keygen", "say disk of", "say boot of NAME-1",
    "say boot of NAME-2", "tool ssh", "say NAME-1 at", "end",
]  # fmt: skip
# Nothing but the network yet; a tool at work; a node at its boot; a lab that is whole.
MOST_TELLING = ("say network", "tool mount", "say boot of NAME-2", "end")
OWNER = """
import os, signal, subprocess, sys
name, kind, what = sys.argv[1], sys.argv[2], sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Report:
    def say(self, text):
        if kind == "say" and what in text: die()
    def begin(self, task, total_bytes=None): pass
    def advance(self, task, n_bytes): pass
    def end(self, task):
        if kind == "end" and task == f"lab {name}": die()

from installer.lab import disk, lab, network, node
for module in (disk, lab, network, node):
    def run(argv, _run=module.run, **options):
        if kind == "tool" and argv[0] == what and options.get("env"):
            tool = subprocess.Popen(
                [str(a) for a in argv], env={**os.environ, **options["env"]}, stdin=subprocess.PIPE
            )
            tool.stdin.write((options.get("stdin") or "").encode())
            die()
        return _run(argv, **options)
    module.run = run

lab.up(name, nodes=2, owner_pid=os.getpid(), report=Report())
"""


@pytest.mark.parametrize("point", [pytest.param(p, marks=[pytest.mark.slow] * (p not in MOST_TELLING)) for p in POINTS])
def test_a_killed_owner_leaves_what_sweep_takes_away(name: str, point: str) -> None:
    kind, _, what = point.replace("NAME", name).partition(" ")
    owner = subprocess.run(
        [sys.executable, "-c", OWNER, name, kind, what],
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert owner.returncode == -signal.SIGKILL, owner.stderr
    assert traces(name) != set()
    assert name in sweep()
    assert traces(name) == set()


def test_a_reboot_s_disks_are_swept(name: str) -> None:
    """After a reboot /run is empty and the disks are still there."""
    place = state.DISK / name / f"{name}-1/upper"
    place.mkdir(parents=True)
    assert name in sweep()
    assert traces(name) == set()
