"""How `./run test` orders its parts, which of them a change selects, and what it says at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import seconds, touched

TREE = Path(__file__).resolve().parents[2]

SCENARIO = f"{seconds.SCENARIOS}::test_the_role[firewall-default]"


def test_quick_parts_begin_and_the_longest_of_the_rest_follow() -> None:
    before = {"tests/e2e/test_install.py": 400.0, "tests/nodes/test_lab.py": 20.0, SCENARIO: 200.0}
    ids = ["tests/nodes/test_lab.py::a", SCENARIO, "tests/e2e/test_new.py::a", "tests/e2e/test_install.py::a", "tests/unit/test_x.py::a", "tests/nodes/test_new.py::a"]  # fmt: skip
    assert sorted(ids, key=lambda i: seconds.turn(i, before)) == [ids[4], ids[3], ids[2], ids[1], ids[5], ids[0]]


def test_the_table_shows_growth_and_adds_up() -> None:
    lines = seconds.table({"a.py": 90.4, SCENARIO: 6, "tiny.py": 0.4}, {"a.py": 60.0, "tiny.py": 1.0, "gone.py": 50.0})
    assert lines[1:] == [
        "    90     60     +30  a.py",
        "     6    new          firewall-default (scenario)",
        "     0      1      -1  1 others",
        "    97     61     +36  all, added up over the processes",
    ]


def test_a_record_keeps_the_parts_that_did_not_run() -> None:
    assert json.loads(seconds.written({"a.py": 1.26}, {"a.py": 9.0, "b.py": 2.0})) == {"a.py": 1.3, "b.py": 2.0}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project in small: a core, a command line, a role, and a test of each."""
    files = {
        "run": "",
        "engine/nft.py": "",
        "engine/other.py": "",
        "installer/cli.py": "from engine import nft\n",
        "roles/firewall/tasks/main.yml": "",
        "roles/nginx/tasks/main.yml": "",
        "docs/a.md": "",
        "tests/helper.py": "def f():\n    import engine.nft\n",
        "tests/demo.py": "import installer.cli\n",
        "tests/unit/test_nft.py": "from tests.helper import f\n",
        "tests/unit/test_docs.py": "HERE = 'docs'\n",
        "tests/unit/test_program.py": "ARGV = ['python', '-m', 'installer']\n",
        "tests/e2e/test_install.py": "from tests.demo import TREE\n",
        "tests/roles/test_molecule.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


NFT, DOCS, PROGRAM, INSTALL = (
    f"tests/{m}.py::t" for m in ("unit/test_nft", "unit/test_docs", "unit/test_program", "e2e/test_install")
)
FIREWALL, NGINX, LAB = (f"{seconds.SCENARIOS}::t[{r}]" for r in ("firewall-default", "nginx-default", "tests-site"))
EVERY = (NFT, DOCS, PROGRAM, INSTALL, FIREWALL, NGINX, LAB)


@pytest.mark.parametrize(
    ("path", "touched_tests"),
    [
        ("run", {NFT, DOCS, PROGRAM, INSTALL, FIREWALL, NGINX, LAB}),
        ("engine/nft.py", {NFT, PROGRAM, INSTALL, FIREWALL, NGINX, LAB}),
        ("engine/other.py", {PROGRAM, INSTALL, FIREWALL, NGINX, LAB}),
        ("installer/cli.py", {PROGRAM, INSTALL}),
        ("roles/firewall/tasks/main.yml", {INSTALL, FIREWALL, LAB}),
        ("docs/a.md", {DOCS}),
        ("tests/helper.py", {NFT}),
        ("tests/unit/test_docs.py", {DOCS}),
        ("README.md", set()),
    ],
)
def test_a_change_selects_what_it_touches(tree: Path, path: str, touched_tests: set[str]) -> None:
    found = touched.Tree(tree)
    assert {t for t in EVERY if found.touches([path], t)} == touched_tests


def test_what_is_committed_changed_and_new_since_a_commit_counts(tree: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=tree, check=True, capture_output=True)  # fmt: skip

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "base")
    (tree / "engine/nft.py").write_text("1\n")
    git("commit", "-qam", "second")
    (tree / "docs/a.md").write_text("words\n")
    (tree / "new.py").write_text("")
    assert touched.changed(tree, "base") == {"engine/nft.py", "docs/a.md", "new.py"}
    with pytest.raises(ValueError, match="nowhere"):
        touched.changed(tree, "nowhere")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test", "--changed"], "error: --changed needs a commit, for example: ./run test --changed main"),
        (["test", "--changed", "--slow"], "error: --changed needs a commit, for example: ./run test --changed main"),
        (["setup", "extra"], "error: ./run setup takes no words: extra"),
        (["docs", "extra"], "error: ./run docs takes no words: extra"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_set_up(tmp_path: Path, words: list[str], said: str) -> None:
    shutil.copy(TREE / "run", tmp_path)  # alone: what it would begin to set up fails there
    done = subprocess.run([tmp_path / "run", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0]) == (2, "", said)


@pytest.mark.parametrize("processes", [[], ["--numprocesses=1"]])
def test_a_commit_that_git_does_not_know_ends_the_run_at_once_with_a_line(processes: list[str]) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", *processes, "--changed", "nosuchref", "tests/unit/test_runner.py"]
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")
    }  # a process of its own, also under xdist
    done = subprocess.run(argv, cwd=TREE, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.split() == ["ERROR:", "--changed", "nosuchref:", "fatal:", "bad", "revision", "'nosuchref'"]
