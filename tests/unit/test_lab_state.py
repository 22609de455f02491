"""A record of a lab says who may clear it away, and a lock keeps two callers apart."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from installer.lab import state
from installer.lab.plan import Node
from installer.lab.state import Process, State


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    monkeypatch.setattr(state, "DISK", tmp_path / "disk")


def me() -> Process:
    found = state.process(os.getpid())
    assert found is not None
    return found


def dead() -> Process:
    """This process's id with another start: what a reused id looks like."""
    return replace(me(), started=me().started - 1)


def record() -> State:
    return State(
        name="try",
        prefix="10.87.3.0/24",
        release="bookworm",
        nodes=(Node("try-1", "10.87.3.11"),),
        maker=me(),
        owner=None,
        cgroups=("/sys/fs/cgroup/x",),
        mark="00ff",
        machines=(me(),),
    )


def test_what_is_written_is_read_back() -> None:
    with_owner = replace(record(), owner=me(), ready=True)
    with_owner.write()
    assert state.read("try") == with_owner


def test_a_lab_nobody_wrote_has_no_record() -> None:
    assert state.read("try") is None
    assert not state.recorded("try")


def test_a_record_of_another_version_is_seen_but_not_taken() -> None:
    record().write()
    (state.RUN / "try/state.json").write_text('{"name": "try"}')
    assert state.read("try") is None
    assert state.recorded("try")


def test_a_reused_process_id_is_not_the_process() -> None:
    assert me().alive()
    assert not dead().alive()


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert state.process(child.pid) is None
    child.wait()


def test_a_process_name_with_brackets_is_parsed(tmp_path: Path) -> None:
    odd = tmp_path / "x) Z 1 (y"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = state.process(child.pid)
        assert found is not None and found.started >= me().started
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("ready", "maker_lives", "owner", "orphaned"),
    [
        (True, True, "none", False),
        (True, False, "none", False),  # the command ended as it should; the lab stays
        (False, True, "none", False),  # still being made
        (False, False, "none", True),
        (True, False, "lives", False),
        (True, False, "dead", True),
        (False, True, "dead", True),
    ],
)
def test_a_lab_is_orphaned_when_nobody_is_left_who_would_take_it_down(
    ready: bool, maker_lives: bool, owner: str, orphaned: bool
) -> None:
    lab = replace(
        record(),
        ready=ready,
        maker=me() if maker_lives else dead(),
        owner={"none": None, "lives": me(), "dead": dead()}[owner],
    )
    assert lab.orphaned() is orphaned


def test_labs_are_known_by_record_or_disk_and_locks_are_not_labs() -> None:
    record().write()
    (state.DISK / "rebooted").mkdir(parents=True)
    with state.locked(state.lab_lock("other")):
        assert state.known() == ["rebooted", "try"]


def test_a_lock_admits_one_at_a_time_and_leaves_no_file() -> None:
    inside = 0
    most = 0
    guard = threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        for _ in range(50):
            with state.locked(state.lab_lock("try")):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(state.RUN.iterdir()) == []


def test_a_killed_holder_s_lock_is_dropped_and_a_held_one_is_not() -> None:
    state.RUN.mkdir()
    state.lab_lock("gone").touch()
    with state.locked(state.lab_lock("held")):
        state.drop_stale_locks()
        assert [f.name for f in state.RUN.iterdir()] == [".held.lock"]
