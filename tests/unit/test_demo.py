"""How `./run demo` ends when somebody interrupts it or a command fails. A small program stands for `appliance`; no node is booted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import InputError
from tests import demo
from tests.demo import TREE, Demo

# Like `appliance install`: it takes a while to stop what it started, longer than subprocess.run waits after Ctrl-C.
SLOW_TO_END = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
try:
    (place / "begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    (place / "tidied").touch()
    sys.exit(130)
"""
DEAF = "import pathlib, signal, sys, time; signal.signal(2, signal.SIG_IGN); pathlib.Path(sys.argv[1], 'begun').touch(); time.sleep(60)"
# The whole demo with another program; what background shells and nohup ignore is undone.
DRIVER = """
import signal, sys
from tests import demo
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
demo.PROGRAM = [sys.executable, "-c", sys.argv.pop(1), sys.argv.pop(1)]
demo.HEARD_S = float(sys.argv.pop(1))
demo.ENDS_S = 2.0
demo.main()
"""


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the demo with a program that has begun when this returns. Whatever a test finds, nothing of it stays."""
    groups: list[int] = []

    def started(program: str, heard_s: float = 30) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", DRIVER, program, str(tmp_path), str(heard_s)]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        child = subprocess.Popen(
            argv, cwd=TREE, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        groups.append(child.pid)
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1]
            time.sleep(0.05)
        return child

    yield started
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "everybody", "heard_s"),
    [
        (signal.SIGINT, True, 30.0),  # Ctrl-C
        (signal.SIGINT, False, 0.2),  # kill -INT of the demo alone: the command has to hear of it
        (signal.SIGTERM, False, 30.0),
        (signal.SIGHUP, False, 30.0),
    ],
)
def test_an_interrupted_demo_lets_its_command_end_and_leaves_nothing(
    tmp_path: Path, start: Start, number: signal.Signals, everybody: bool, heard_s: float
) -> None:
    child = start(SLOW_TO_END, heard_s)
    assert list(tmp_path.glob("appliance-demo-*"))
    (os.killpg if everybody else os.kill)(child.pid, number)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130, said
    assert (tmp_path / "tidied").exists()
    assert said.splitlines()[-1] == "demo: interrupted. What it made to work with is removed."
    assert "Traceback" not in said
    assert not list(tmp_path.glob("appliance-demo-*"))
    assert is_gone(child.pid)


def test_pressing_ctrl_c_again_does_not_hurry_the_end(tmp_path: Path, start: Start) -> None:
    child = start(SLOW_TO_END)
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(0.4)
    os.kill(child.pid, signal.SIGINT)
    said = child.communicate(timeout=30)[1]
    assert (child.returncode, (tmp_path / "tidied").exists()) == (130, True), said
    assert "Traceback" not in said


def test_a_command_that_does_not_end_is_killed(start: Start) -> None:
    child = start(DEAF)
    os.kill(child.pid, signal.SIGTERM)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130, said
    assert is_gone(child.pid)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A demo whose bundle and node cost nothing; names of the labs that it took down."""
    lab: Any = SimpleNamespace(name="demo", nodes=[SimpleNamespace(name="demo-1", address="192.0.2.2")], host_address="192.0.2.1", key="", known_hosts="")  # fmt: skip
    down: list[str] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "FAILED", tmp_path / "kept")
    monkeypatch.setattr(demo, "make_bundle", lambda _demo: None)
    monkeypatch.setattr(demo, "up", lambda *_words, **_named: lab)
    monkeypatch.setattr(demo, "down", down.append)
    # `install` as far as it matters here: it writes its log where --runs says, and fails.
    failing = "import pathlib, sys; p = pathlib.Path(sys.argv[sys.argv.index('--runs') + 1], 'R1'); (p / 'runner-1').mkdir(parents=True); (p / 'ansible.log').write_text('why'); sys.exit(5)"
    monkeypatch.setattr(demo, "PROGRAM", [sys.executable, "-c", failing])
    return down


def test_a_failed_install_leaves_its_log_and_says_where(
    tmp_path: Path, made: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert demo.run(keep_node=False, again=False) == 1
    log = tmp_path / "kept/R1/ansible.log"
    assert log.read_text() == "why"
    assert not log.with_name("runner-1").exists()
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == (
        "demo: `appliance install` failed with exit code 5; what it said is above. "
        f"The log of the install: {log}. The node is removed; `./run demo --keep` leaves it."
    )
    assert made == ["demo"]
    assert not list(tmp_path.glob("appliance-demo-*"))


def test_a_failed_install_on_a_node_that_stays_says_how_to_remove_it(
    tmp_path: Path, made: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert demo.run(keep_node=True, again=False) == 1
    (work,) = tmp_path.glob("appliance-demo-*")
    assert (work / "control/runs/R1/ansible.log").exists()
    assert capfd.readouterr().err.endswith(f"To remove it:\n  appliance lab down demo && rm -r {work}\n")
    assert made == []


def test_a_node_of_another_demo_is_left_alone_and_the_reason_is_a_sentence(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def taken(*_words: object, **_named: object) -> None:
        raise InputError("lab demo is already up", remedy="Take it down.")

    monkeypatch.setattr(demo, "up", taken)
    assert demo.run(keep_node=False, again=False) == 2
    assert "error: lab demo is already up\n       Take it down.\n" in capfd.readouterr().err
    assert made == []
    assert not list(tmp_path.glob("appliance-demo-*"))


def test_a_command_s_document_is_in_the_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PROGRAM", [sys.executable, "-c", "import sys; print('{\"a\": 1}'); sys.exit(5)"])
    tried = Demo(tmp_path, tmp_path, verbose=False)
    with pytest.raises(SystemExit, match=r'`appliance status` failed with exit code 5: \{"a": 1\}'):
        tried.appliance("status", json_output=True)
    with pytest.raises(SystemExit, match="ended with 5, expected 0 or 1"):
        tried.appliance("status", ok=(0, 1), json_output=True)
    assert tried.appliance("status", ok=(5,), json_output=True) == {"a": 1}
