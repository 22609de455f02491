"""SIGTERM and SIGHUP end a command as Ctrl-C does: its processes end, its temporary files go, and one sentence says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.download import WORKERS
from tests.bundles import make

TREE = Path(__file__).parents[2]
ENDS_S = 20.0  # as long as a loaded machine may take; what must not happen takes a minute and more
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
SENTENCES = {
    signal.SIGTERM: "Ended by SIGTERM. The same command continues where it stopped.\n",
    signal.SIGHUP: "Ended by SIGHUP. The same command continues where it stopped.\n",
    signal.SIGINT: "Interrupted. The same command continues where it stopped.\n",
}
# A command of ours around any code, as `appliance` has it.
COMMAND = "from installer.cli import ending; from installer.cli.screen import Screen\n{}\nending.run(Screen(), work)"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start something in a process group of its own, with a directory for temporary files, and wait until it has written `begun`."""
    started = []
    (tmp_path / "tmp").mkdir()

    def one(*argv: str | Path, ignored: tuple[signal.Signals, ...] = (), path: str = "") -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "TMPDIR": str(tmp_path / "tmp"),
            "PYTHONPATH": str(TREE),
            "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"],
        }

        def prepare() -> None:
            for number in CODES:  # nohup may have them ignored
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        child = subprocess.Popen(
            list(map(str, argv)), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=prepare,  # noqa: PLW1509  this process starts no threads before
        )  # fmt: skip
        started.append(child)
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1]
            time.sleep(0.02)
        return child

    yield one
    for child in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def end(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Send the signal to the command alone; exit code, output and messages."""
    begun = time.monotonic()
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=ENDS_S * 3)
    assert time.monotonic() - begun < ENDS_S, err
    return child.returncode, out, err


def running(word: str) -> list[str]:
    """Processes with that word on their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if word in argv:
                found.append(" ".join(argv))
    return found


def appeared(word: str) -> bool:
    """Whether exactly one process with that word comes up: a shell says that it begins before its child runs the program."""
    deadline = time.monotonic() + ENDS_S
    while not running(word) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(running(word)) == 1


@pytest.fixture
def stalled_git(tmp_path: Path) -> tuple[str, str]:
    """A directory with a `git` that starts another process and waits for it, and that one's word."""
    word = f"{600 + os.getpid() % 300}.{time.monotonic_ns() % 10**9}"
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin/git"
    git.write_text(f"#!/bin/sh\nsleep {word} &\n: > {tmp_path}/begun\nwait\n")
    git.chmod(0o755)
    return str(tmp_path / "bin"), word


@pytest.mark.parametrize("json_output", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_lock_leaves_no_process_and_no_file(
    start: Start, stalled_git: tuple[str, str], tmp_path: Path, number: signal.Signals, json_output: bool
) -> None:
    path, word = stalled_git
    (tmp_path / "d.yml").write_text("schema: 1\nname: d\nversion: 1.0.0\ntarget: {os: debian-12, python: '3.11'}\n")
    more = ["--json"] if json_output else []
    child = start(sys.executable, "-m", "installer", "lock", "d.yml", "--cache", "cache", *more, path=path)
    assert appeared(word)
    assert list((tmp_path / "tmp").iterdir())
    code, out, err = end(child, number)
    assert code == CODES[number], err
    if json_output:
        assert json.loads(out)["error"] == {
            "what": f"ended by {number.name}", "where": "", "remedy": "The same command continues where it stopped.",
            "exit_code": CODES[number],
        }  # fmt: skip
    else:
        assert (out, err.splitlines(keepends=True)[1:]) == ("", [SENTENCES[number]])  # after "lock debs: done"
    assert running(word) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "d.lock.yml").exists()


def test_what_nohup_ignores_ends_nothing(start: Start, stalled_git: tuple[str, str], tmp_path: Path) -> None:
    path, word = stalled_git
    (tmp_path / "d.yml").write_text("schema: 1\nname: d\nversion: 1.0.0\ntarget: {os: debian-12, python: '3.11'}\n")
    child = start(
        sys.executable, "-m", "installer", "lock", "d.yml", "--cache", "cache", path=path, ignored=(signal.SIGHUP,)
    )
    os.kill(child.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    assert end(child, signal.SIGTERM)[0] == 143
    assert running(word) == []


@contextlib.contextmanager
def stalling(tmp_path: Path, answer: bytes) -> Iterator[str]:
    """The address of a server that sends ``answer`` to everyone and then nothing; `begun` is there when eight have asked."""
    taken: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(answer)
            taken.append(connection)
        if len(taken) == WORKERS:
            (tmp_path / "begun").touch()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


BEGINNING = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 3_000_000


@pytest.mark.parametrize("answer", [BEGINNING, b""], ids=["in the middle", "before it answers"])
@pytest.mark.parametrize("number", CODES)
def test_a_download_ends_at_once_also_where_nothing_comes(
    start: Start, tmp_path: Path, number: signal.Signals, answer: bytes
) -> None:
    with stalling(tmp_path, answer) as address:
        work = (
            "from pathlib import Path; from engine.blobs import Blobs; from engine.download import Downloader, Item\n"
            f"items = [Item('a', '{address}', format(i, '064x'), 4_000_000) for i in range(20)]\n"
            f"work = lambda: Downloader(Blobs(Path('{tmp_path}/blobs'))).fetch_all(items)"
        )
        child = start(sys.executable, "-c", COMMAND.format(work))
        assert end(child, number) == (CODES[number], "", SENTENCES[number])


@pytest.mark.parametrize("number", CODES)
def test_hashing_of_a_long_file_ends_at_once(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)  # sparse; ten minutes of hashing
    work = (
        "from pathlib import Path; from installer.trust.sign import digests_of\n"
        f"place = Path('{tmp_path}')\n"
        "def work():\n  (place / 'begun').touch()\n  return len(digests_of(place, ['long'], chunk_size=1 << 50))"
    )
    child = start(sys.executable, "-c", COMMAND.format(work))
    assert end(child, number) == (CODES[number], "", SENTENCES[number])


def test_a_process_in_a_session_of_its_own_is_ended_with_what_it_started(start: Start, tmp_path: Path) -> None:
    word = f"{600 + os.getpid() % 300}.{time.monotonic_ns() % 10**9}"
    work = (
        "from engine.talk import talk\n"
        f"argv = ['sh', '-c', 'sleep {word} & : > {tmp_path}/begun; wait']\n"
        "work = lambda: talk(argv, stdin=b'', timeout_s=600, limit_bytes=1000)"
    )
    child = start(sys.executable, "-c", COMMAND.format(work))
    assert appeared(word)
    assert end(child, signal.SIGTERM) == (143, "", SENTENCES[signal.SIGTERM])
    assert running(word) == []


def test_the_second_hangup_of_a_closing_terminal_does_not_stop_the_cleaning_up(start: Start, tmp_path: Path) -> None:
    work = (
        "import pathlib, time\n"
        f"place = pathlib.Path('{tmp_path}')\n"
        "def work():\n"
        "  try:\n    (place / 'begun').touch(); time.sleep(600)\n"
        "  finally:\n    (place / 'cleaning').touch(); time.sleep(1); (place / 'cleaned').touch()\n"
    )
    child = start(sys.executable, "-c", COMMAND.format(work))
    os.kill(child.pid, signal.SIGHUP)
    while not (tmp_path / "cleaning").exists():
        time.sleep(0.01)
    assert end(child, signal.SIGHUP) == (129, "", SENTENCES[signal.SIGHUP])
    assert (tmp_path / "cleaned").exists()


def test_a_process_that_does_not_heed_a_signal_is_killed(start: Start, tmp_path: Path) -> None:
    word = f"{600 + os.getpid() % 300}.{time.monotonic_ns() % 10**9}"
    work = (
        "from engine.process import run\n"
        f"argv = ['sh', '-c', 'trap \"\" TERM; (trap \"\" TERM; exec sleep {word}) & : > {tmp_path}/begun; wait']\n"
        "work = lambda: run(argv)"
    )
    child = start(sys.executable, "-c", COMMAND.format(work))
    assert end(child, signal.SIGTERM) == (143, "", SENTENCES[signal.SIGTERM])
    assert running(word) == []


def test_what_comes_as_an_error_of_a_process_that_was_ended_is_not_told_as_one(start: Start, tmp_path: Path) -> None:
    """A thread waits for a process, and tells the main thread that it failed."""
    work = (
        "from concurrent.futures import ThreadPoolExecutor; from engine.errors import ApplianceError\n"
        "import pathlib, time\n"
        "def work():\n"
        f"  pathlib.Path('{tmp_path}/begun').touch()\n"
        "  try:\n    time.sleep(600)\n  except KeyboardInterrupt:\n    raise ApplianceError('the tool failed')\n"
    )
    child = start(sys.executable, "-c", COMMAND.format(work))
    assert end(child, signal.SIGTERM) == (143, "", SENTENCES[signal.SIGTERM])


@pytest.mark.parametrize("number", CODES)
def test_the_engine_s_verify_ends_in_order(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    bundle = make(tmp_path / "in", {"files/a": b"a"})
    (tmp_path / "root.json").write_bytes(bundle.root)
    script = (
        "import sys, pathlib, time, engine.trust, engine.verify_cli\n"
        "def slow(*_, **__):\n"
        f"  pathlib.Path('{tmp_path}/begun').touch(); time.sleep(600)\n"
        "engine.trust.refresh = slow\n"
        f"sys.argv = ['appliance-engine', 'verify', '--root', '{tmp_path}/root.json', '{bundle.path}']\n"
        "from engine.cli import main; main()"
    )
    child = start(sys.executable, "-c", script)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    code, out, err = end(child, number)
    assert (code, out) == (CODES[number], "")
    assert json.loads(err)["error"]["what"] == f"ended by {number.name}"
    assert list((tmp_path / "tmp").iterdir()) == []
