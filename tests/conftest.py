"""What whole-product tests share: one bundle, built once in a run by the product's own command line."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from engine import durable
from tests import seconds, touched
from tests.demo import TREE, Demo, make_bundle

# The same examples in every run: a red test means a change broke something. Searching at random is `./run fuzz`.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")


# A test that takes longer is named when it ends; seconds.
TOLD = 60
TOOK: dict[str, float] = {}  # seconds by test, in the process that waits for all others


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("appliance")
    group.addoption(
        "--changed", metavar="BASE", help="run only the tests that the change since the commit BASE touches"
    )
    group.addoption("--record", action="store_true", help="write the seconds of each part to tests/seconds.json")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick parts begin, then the longest; within a part the order stays. With --changed only what a change touches."""
    before = seconds.recorded()
    items.sort(key=lambda item: seconds.turn(item.nodeid, before))
    if (base := config.getoption("--changed")) is None:
        return
    paths = touched.changed(TREE, base)
    tree = touched.Tree(TREE)
    kept = [item for item in items if tree.touches(paths, item.nodeid)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


class Modules(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types for mypy
    """With several processes a module stays in one, for its tests may follow each other; a role's scenario stands alone."""

    def _split_scope(self, nodeid: str) -> str:
        return seconds.part_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Modules:
    """Not xdist's own groups: release 3.8 writes them where this pytest no longer looks."""
    return Modules(config, log)


@pytest.fixture(autouse=True)
def _the_usual_umask() -> Iterator[None]:
    """The engine narrows it for what it writes; in one process with other tests that would stay."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _a_state_directory_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots that `verify` follows are kept for the user who runs it, not for the user who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="session")
def built() -> Iterator[Path]:
    """Where the demo's bundle lies with its keys and passphrase, locked and built from nothing; one for all processes of a run.

    Not below pytest's own directory, which is private: nodes and the depot's web server read from here.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is not None:
        yield _shared(_place(run))
        return
    place = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    try:
        make_bundle(Demo(place, place / "dist"))
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def demo(built: Path) -> Iterator[Demo]:
    """The demo's bundle, and a control host's directory of its own for each module: what one has pinned of its nodes is not true of the
    next one's."""
    work = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    try:
        shutil.copytree(built / "config", work / "config")
        shutil.copy2(built / "passphrase", work / "passphrase")
        yield Demo(work, built / "dist")
    finally:
        shutil.rmtree(work)


def _shared(place: Path) -> Path:
    """The first process builds the bundle, the others wait for it."""
    place.mkdir(exist_ok=True)
    place.chmod(0o711)
    with (place / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (place / "built").exists():
            make_bundle(Demo(place, place / "dist"))
            (place / "built").touch()
    return place


def pytest_configure(config: pytest.Config) -> None:
    """A name for this run that the processes share; Ctrl-C that works in what tests start, also where a shell's background ignores it.

    Raises:
        UsageError: git does not know the commit of --changed. Said here and not by every process that collects tests, where it is
            an internal error.
    """
    if (base := config.getoption("--changed")) is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        try:
            touched.changed(TREE, base)
        except ValueError as error:
            raise pytest.UsageError(f"--changed {base}: {error}") from None
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "testrunuid", "absent") is None:
        config.option.testrunuid = uuid.uuid4().hex


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the process that waits for all others: a failure is told when it happens, and what takes minutes when it ends.

    A run that is ended from outside never comes to pytest's own summary.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    TOOK[report.nodeid] = TOOK.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        print(
            f"\n{report.when} of {report.nodeid} failed after {report.duration:.0f} s:\n{report.longreprtext}",
            flush=True,
        )
    elif report.duration > TOLD:
        print(f"\n{report.duration:.0f} s: {report.when} of {report.nodeid}", flush=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Growth is seen when it happens: the seconds of each part against the last recorded ones."""
    parts, before = seconds.by_part(TOOK), seconds.recorded()
    if sum(parts.values()) > TOLD:
        terminalreporter.section("seconds against tests/seconds.json")
        for line in seconds.table(parts, before):
            terminalreporter.write_line(line)
    if config.getoption("--record"):
        durable.write(seconds.RECORD, seconds.written(parts, before))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The process that waited for all others clears away what they shared."""
    run = getattr(session.config.option, "testrunuid", None)
    if run and "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(_place(run), ignore_errors=True)


def _place(run: str) -> Path:
    return Path(tempfile.gettempdir()) / f"appliance-tests-{run}"


@pytest.fixture(scope="module")
def bundle(demo: Demo) -> Path:
    return demo.bundle
