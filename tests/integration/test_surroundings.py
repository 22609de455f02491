"""Every command in every surrounding: it does its work, or it ends with a documented code and one sentence of what, where and how to fix it."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
import installer
from tests.surroundings import commands, places, world
from tests.surroundings.process import Case, Done, run_all

SURROUNDINGS = {
    f"{group}: {s.name}": s
    for group, several in (("process", places.PROCESS), ("result", places.RESULTS), ("operand", places.OPERANDS))
    for s in several
}
FAULTS = ("internal error", "Traceback", "Exception ignored", "Exception in thread")
# Every run tries each command in one of so many surroundings, and each surrounding with as many commands; `--slow` tries the others.
SHARE, SHARE_OF_COSTLY = 11, 47
DOCUMENTED = range(7)  # docs/cli.md


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A world that all share and none changes. Where any user may pass through, for commands that run as another user."""
    for package in (installer, engine):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    where = Path(tempfile.mkdtemp(prefix="appliance-world-"))
    try:
        world.make(where)
        yield where
    finally:
        shutil.rmtree(where)


def test_every_command_has_a_call() -> None:
    """A new command is tried in all surroundings, too: add its smallest call to tests/surroundings/commands.py."""
    assert commands.of_the_command_line() == set(commands.CALLS)


def share(name: str, *, rest: bool = False) -> set[str]:
    """The commands that a run tries in a surrounding; with ``rest`` those that it leaves to the slow run."""
    number = list(SURROUNDINGS).index(name)
    mine = {
        command
        for i, (command, call) in enumerate(commands.CALLS.items())
        if (i + number) % (SHARE_OF_COSTLY if call.costly else SHARE) == 0
    }
    return set(commands.CALLS) - mine if rest else mine


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_command_ends_with_its_work_or_a_sentence(name: str, made: Path) -> None:
    tried(name, share(name), made)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_all_other_commands_do_as_well(name: str, made: Path) -> None:
    tried(name, share(name, rest=True), made)


def tried(name: str, chosen: set[str], made: Path) -> None:
    surrounding = SURROUNDINGS[name]
    cases = [c for c in surrounding.cases(made) if c.name in chosen]
    found = [(done, wrong) for done in run_all(cases) if (wrong := faults(done, surrounding))]
    assert not found, "\n".join(f"{' '.join(d.case.argv)}: {', '.join(w)}\n{d.out}{d.err}" for d, w in found)


def faults(done: Done, surrounding: places.Surrounding) -> list[str]:
    """What is wrong with how a command ended."""
    said, call = done.out + done.err, commands.CALLS[done.case.name]
    wrong = [word for word in FAULTS if word in said]
    if done.code not in DOCUMENTED:
        wrong.append(f"exit code {done.code}")
    if surrounding.same and done.code != call.code and done.case.name not in surrounding.needed_by:
        wrong.append(f"exit code {done.code} and not {call.code} as elsewhere")
    if done.code and surrounding.heard and not said.strip():
        wrong.append("silent")
    if re.search(r"^error: ", done.err, re.MULTILINE) and not re.search(r"^       \S", done.err, re.MULTILINE):
        wrong.append("no remedy")
    if left := [path for path in done.written if path.endswith(".tmp")]:
        wrong.append(f"left {left}")
    return wrong


# -- what a fork cannot show: how the interpreter itself starts --------------------------------------
REAL = {
    "no output": (">&-", 0),
    "no errors": ("2>&-", 0),
    "no input": ("<&-", 0),
    "nothing": ("<&- >&- 2>&-", 0),
    "full output": (">/dev/full", 6),
    "a reader that left": ("| true; exit ${PIPESTATUS[0]}", 1),
}


@pytest.mark.parametrize("name", REAL)
def test_streams_of_a_new_interpreter(name: str, made: Path) -> None:
    """What the fork settles by hand is what an interpreter finds. A pipe may take the text before its reader leaves."""
    redirection, code = REAL[name]
    script = f"exec 9>&2; {sys.executable} -m installer schema site {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], env=world.environment(made), capture_output=True, text=True, check=False
    )
    assert done.returncode in {code, 0} if name == "a reader that left" else done.returncode == code, done.stderr
    assert not any(word in done.stderr for word in FAULTS), done.stderr


@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.UTF-8", "de_DE.ISO-8859-1"])
def test_locales_of_a_new_interpreter(locale: str, made: Path) -> None:
    """Also without Python's own ways out of a locale that has no letters: names with such letters are read, and shown as escapes."""
    environment = world.environment(made) | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    argv = [sys.executable, "-m", "installer", "model", "check", str(made / "model-ä"), "--licence", "MIT"]
    done = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"model-" in done.stderr and b"internal error" not in done.stderr, done.stderr


def test_an_error_is_one_document_where_json_is_asked_for(made: Path) -> None:
    """Every command that fails in a surrounding, with --json: standard output has one document, which names the remedy."""
    cases = [
        Case(c.name, (*c.argv, "--json"), c.world, c.prepare, c.enter, c.environment)
        for c in SURROUNDINGS["result: read-only place"].cases(made)
        if not commands.CALLS[c.name].costly
    ]
    for done in run_all(cases):
        error = json.loads(done.out)["error"]
        assert error["where"] and error["remedy"] and error["exit_code"] == done.code == 6, done
