"""Nothing that installs from a file of requirements resolves: pip and uv take what an index has that day, even beside hashes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.demo import TREE

PLACES = (
    "run",
    ".ci",
    "README.md",
    "CHANGELOG.md",
    "docs",
    "bundles",
    "roles",
    "playbooks",
    "inventories",
    "installer",
    "engine",
    "tests",
)
FROM_A_FILE = re.compile(r"-r(=?[\w./{$].*)?|--requirements?(=.*)?")
QUOTES = "`'\"(),;"


def resolves(words: list[str]) -> bool:
    """Whether these words are an installation (or download) from a file of requirements that may take what the file does not name."""
    said = {w.strip(QUOTES) for w in words}
    pip = any(re.fullmatch(r"(.*/)?pip[\d.]*", w) for w in said)
    return (
        pip
        and bool(said & {"install", "download", "wheel"})
        and any(FROM_A_FILE.fullmatch(w) for w in said)
        and "--no-deps" not in said
    )


def commands(path: Path, text: str) -> Iterator[list[str]]:
    """The words that belong together: a function of Python, an argv of YAML, a line of anything else."""
    if path.suffix == ".py":
        yield from _python(text)
    elif path.suffix in (".yml", ".yaml"):
        for document in yaml.load_all(text, Loader=_Tolerant):
            yield from _yaml(document)
    else:
        yield from (line.split() for line in text.replace("\\\n", " ").splitlines())


def _python(text: str) -> Iterator[list[str]]:
    module = ast.parse(text)
    for node in module.body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in inside:
            yield _words(part)
            for call in ast.walk(part):  # within a function every command by itself, where it says all of its words
                if isinstance(call, ast.Call | ast.List) and not any(
                    isinstance(n, ast.Starred) for n in ast.walk(call)
                ):
                    yield _words(call)


def _words(node: ast.AST) -> list[str]:
    strings = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [word for string in strings for word in string.split()]


class _Tolerant(yaml.SafeLoader):
    """Tags of Ansible and Molecule are read as what they carry."""


_Tolerant.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))  # type: ignore[no-untyped-call]


def _yaml(node: object) -> Iterator[list[str]]:
    if isinstance(node, dict):
        if "ansible.builtin.pip" in node and "requirements" in str(node["ansible.builtin.pip"]):
            yield ["pip", "install", "--requirement", *str(node["ansible.builtin.pip"]).split()]
        for inner in node.values():
            yield from _yaml(inner)
    elif isinstance(node, list):
        yield [word for item in node if isinstance(item, str) for word in item.split()]
        for inner in node:
            yield from _yaml(inner)
    elif isinstance(node, str):
        yield from (line.split() for line in node.replace("\\\n", " ").splitlines())


def files() -> Iterator[tuple[Path, str]]:
    for place in PLACES:
        top = TREE / place
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path != Path(__file__) and "__pycache__" not in path.parts:
                try:
                    yield path, path.read_text()
                except UnicodeDecodeError:
                    continue  # pictures


def test_no_file_installs_from_a_lock_by_resolving() -> None:
    seen, found = 0, []
    for path, text in files():
        for words in commands(path, text):
            seen += "--require-hashes" in words
            if resolves(words):
                found.append(f"{path.relative_to(TREE)}: {' '.join(words)[:200]}")
    assert not found
    assert seen >= 6  # run, README, two roles, the runtime image, tests: the search sees what there is


PLANTED = {
    "a.sh": "python -m pip install -q \\\n  --require-hashes -r requirements/dev.txt\n",
    "b.md": "Install it: `/opt/x/bin/pip install --require-hashes -r control/requirements.txt`.\n",
    "c.py": "def f():\n    locked = ['-r', PINS]\n    call([UV, 'pip', 'install', *locked])\n",
    "d.py": "class A:\n    def f(self):\n        run(f'pip3 download -d {x} --requirement=lock.txt')\n",
    "h.py": "def f():\n    one(['pip', 'install', '-r', 'x'])\n    two(['pip', 'install', '--no-deps', '-r', 'x'])\n",
    "e.yml": "- ansible.builtin.command:\n    argv:\n      - uv\n      - pip\n      - install\n      - --requirements\n      - x.txt\n",
    "f.yml": "- ansible.builtin.shell: |\n    cd x\n    pip install -r lock.txt\n",
    "g.yml": "- ansible.builtin.pip:\n    requirements: /srv/lock.txt\n",
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_the_search_finds_each_way_to_say_it(name: str) -> None:
    assert any(resolves(words) for words in commands(Path(name), PLANTED[name]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.sh",
            "pip install --no-deps --require-hashes -r lock.txt\nuv pip sync -r lock.txt\nuv pip compile -o lock.txt\n",
        ),
        ("b.md", "`pip install appliance[parity]`\n"),
        ("c.py", "def f():\n    call(['pip', 'install', '--no-deps', '-r', 'lock.txt'])\n"),
        ("e.yml", "- ansible.builtin.command:\n    argv: [uv, pip, install, --no-deps, --requirements, x.txt]\n"),
    ],
)
def test_what_does_not_resolve_passes(name: str, text: str) -> None:
    assert not any(resolves(words) for words in commands(Path(name), text))
