"""Setup installs what the locks name and nothing else, whatever an index has as its newest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from installer.kinds import pins
from installer.kinds.uvresolve import uv_binary
from tests.demo import TREE
from tests.integration.wheelsite import serve, wheel

LOCKS = ("dev", "control", "node", "fuzz")
SYSTEM_PYTHON = "/usr/bin/python3"  # the distribution's own, with its own pip
LIST = "import importlib.metadata as m, json; print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()]))"
OWN = {"appliance", "appliance-engine"}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(name: str) -> dict[str, str]:
    """Versions by name, as requirements/NAME.txt has them."""
    return {p.name: p.version for p in pins.load(TREE / "requirements" / f"{name}.txt").by_name.values()}


def installed(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-I", "-c", LIST], capture_output=True, text=True, check=True)
    return {canonicalize_name(name): version for name, version in json.loads(done.stdout)}


def environment(home: Path, index: str = "") -> dict[str, str]:
    """A shell that knows of one index, and of nothing else on this machine."""
    home.mkdir(exist_ok=True)
    named = {"PIP_INDEX_URL": index} if index else {"PIP_NO_INDEX": "1"}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, **named}


def seeded(where: Path) -> dict[str, str]:
    """What the distribution's venv holds before anything is installed."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", where], check=True)
    return installed(where / "bin/python")


def newer(folder: Path, name: str, version: str) -> list[Path]:
    """Two releases after this one: the next that every range of a dependency allows, and one far away."""
    release = Version(version).release
    following = ".".join(str(n) for n in (*release[:-1], release[-1] + 1))
    return [wheel(folder, name, v) for v in (following, f"{release[0] + 1000}.0")]


def offer(index: Path, wheels: Iterable[Path]) -> None:
    """List wheels in a PEP 503 index."""
    lines: dict[str, list[str]] = {}
    for path in wheels:
        name = str(parse_wheel_filename(path.name)[0])
        (index / name).mkdir(parents=True, exist_ok=True)
        (index / name / path.name).symlink_to(path)
        href = path.name.replace("+", "%2B")
        lines.setdefault(name, []).append(f'<a href="{href}#sha256={sha256(path)}">{path.name}</a>')
    for name, links in lines.items():
        (index / name / "index.html").write_text("<!DOCTYPE html>\n" + "\n".join(links) + "\n")


def install_lock(
    venv: Path, requirements: Path, env: dict[str, str], *, deps: bool = False
) -> subprocess.CompletedProcess[str]:
    """The function of that name out of ./run, in a shell of its own; with ``deps`` without what keeps pip from resolving."""
    (function,) = re.findall(r"^install_lock\(\) \{.*\}$", (TREE / "run").read_text(), re.MULTILINE)
    if deps:
        function, count = re.subn(" --no-deps", "", function)
        assert count == 1
    script = f'set -euo pipefail\nVENV={shlex.quote(str(venv))}\n{function}\ninstall_lock "$1"\n'
    return subprocess.run(
        ["bash", "-c", script, "bash", requirements], env=env, capture_output=True, text=True, check=False
    )


def test_a_lock_is_installed_as_it_stands_where_resolving_would_take_the_newest(tmp_path: Path) -> None:
    """The fault that broke setup: an extra of a dependency is pinned by the lock, and pip resolves it to a later release."""
    wheels = [
        wheel(tmp_path / "wheels", "tool", "1.0", requires=("base[mail]<3,>=2",)),
        wheel(tmp_path / "wheels", "base", "2.14.3", requires=("mail; extra == 'mail'",)),
        wheel(tmp_path / "wheels", "mail", "1.0"),
    ]
    locked = {"tool": "1.0", "base": "2.14.3", "mail": "1.0"}
    requirements = tmp_path / "lock.txt"
    requirements.write_text(
        "".join(f"{w.name.split('-')[0]}=={w.name.split('-')[1]} --hash=sha256:{sha256(w)}\n" for w in wheels)
    )
    later = [path for name, version in locked.items() for path in newer(tmp_path / "wheels", name, version)]
    offer(tmp_path / "index", [*wheels, *later])
    seeds = seeded(tmp_path / "venv")
    with serve(tmp_path / "index") as url:
        env = environment(tmp_path / "home", url)
        resolving = install_lock(tmp_path / "venv", requirements, env, deps=True)
        assert resolving.returncode != 0
        assert "must have their versions pinned" in resolving.stderr, resolving.stderr
        done = install_lock(tmp_path / "venv", requirements, env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert installed(tmp_path / "venv/bin/python") == seeds | locked


@pytest.fixture(scope="module")
def wheelhouse() -> Path:
    """The real wheels of all locks, fetched once by this machine's own pip configuration."""
    folder = TREE / ".cache" / "wheels-of-locks"
    for name in LOCKS:
        wanted = pins.load(TREE / "requirements" / f"{name}.txt").by_name
        here = {parse_wheel_filename(p.name)[0]: sha256(p) for p in folder.glob("*.whl")}
        if not all(here.get(canonicalize_name(n)) in pin.hashes for n, pin in wanted.items()):
            fetch = ["download", "-qq", "--only-binary", ":all:", "--no-deps", "--require-hashes", "-d", str(folder)]
            subprocess.run(
                [sys.executable, "-m", "pip", *fetch, "-r", f"requirements/{name}.txt"], cwd=TREE, check=True
            )
    return folder


def everything(folder: Path, wheelhouse: Path, names: Iterable[str]) -> list[Path]:
    """The real wheels of these locks, and newer releases of each, made in ``folder``."""
    versions = {n: v for name in names for n, v in lock(name).items()}
    found = {parse_wheel_filename(p.name)[:2]: p for p in wheelhouse.glob("*.whl")}
    real = [found[canonicalize_name(n), Version(v)] for n, v in versions.items()]
    return [*real, *(path for n, v in versions.items() for path in newer(folder, n, v))]


@pytest.fixture(scope="module")
def index(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of everything that the locks name, and of newer releases of all of it."""
    place = tmp_path_factory.mktemp("index")
    offer(place / "simple", everything(place / "later", wheelhouse, LOCKS))
    return place / "simple"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clean clone, with what is not committed yet."""
    (tmp_path / "gitconfig").write_text(
        "[safe]\n\tdirectory = *\n"
    )  # the checkout may be another user's, and this is root
    env = {**os.environ, "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    made = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", TREE, made], env=env, check=True)
    diff = ["git", "diff", "--binary", "HEAD"]
    changed = subprocess.run(diff, cwd=TREE, env=env, capture_output=True, check=True).stdout
    if changed:
        subprocess.run(["git", "apply", "--whitespace=nowarn"], cwd=made, env=env, input=changed, check=True)
    return made


@pytest.mark.slow
def test_a_clean_clone_sets_up_exactly_the_locks(clone: Path, index: Path, tmp_path: Path) -> None:
    seeds = seeded(tmp_path / "seed")
    python = clone / ".venv/bin/python"

    def run(task: str, *words: str, url: str = "") -> str:
        argv = ["./run", task, *words]
        done = subprocess.run(
            argv, cwd=clone, env=environment(tmp_path / "home", url), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    with serve(index) as url:
        said = run("setup", url=url)
        assert len(said.splitlines()) <= 12 and "WARNING" not in said, said
        expected = seeds | lock("dev")
        got = installed(python)
        assert {n: v for n, v in got.items() if n not in OWN} == expected
        assert got.keys() >= OWN
        run("fuzz", "--help", url=url)
        assert {n: v for n, v in installed(python).items() if n not in OWN} == expected | lock("fuzz")
    assert run("setup") == said.splitlines()[-1] + "\n"  # without an index: nothing is left to install


def argv_of_readme() -> list[str]:
    """What README.md tells the operator of a control host to type."""
    (line,) = re.findall(
        r"^/opt/appliance-control/bin/pip (install .*)$", (TREE / "README.md").read_text(), re.MULTILINE
    )
    return shlex.split(line)


def argv_of_the_role(folder: Path, venv: Path) -> list[str]:
    """What the role `node` runs on every node, with its places in here."""
    tasks = yaml.safe_load((TREE / "roles/node/tasks/install.yml").read_text())
    (argv,) = (a for a in _argvs(tasks) if a[1:3] == ["pip", "install"])
    release = "/opt/appliance/releases/{{ appliance_node_release }}"
    places = {
        "{{ appliance_node_uv_binary }}": uv_binary(), f"{release}/bootstrap/requirements.txt": str(folder / "requirements.txt"),
        f"{release}/bootstrap": str(folder), f"{release}/engine/bin/python": str(venv / "bin/python"),
    }  # fmt: skip
    return [places.get(word, word) for word in argv]


def _argvs(tasks: object) -> Iterator[list[str]]:
    if isinstance(tasks, dict):
        yield from ([tasks["argv"]] if isinstance(tasks.get("argv"), list) else [])
    for inner in tasks.values() if isinstance(tasks, dict) else tasks if isinstance(tasks, list) else ():
        yield from _argvs(inner)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["control", "node"])
def test_hosts_get_exactly_their_lock_from_a_folder_that_also_has_newer_wheels(
    name: str, wheelhouse: Path, tmp_path: Path
) -> None:
    folder, venv = tmp_path / name, tmp_path / "venv"
    for path in everything(tmp_path / "later", wheelhouse, [name]):
        folder.mkdir(exist_ok=True)
        (folder / path.name).symlink_to(path)
    shutil.copy(TREE / "requirements" / f"{name}.txt", folder / "requirements.txt")
    seeds = seeded(venv)
    argv = [str(venv / "bin/pip"), *argv_of_readme()] if name == "control" else argv_of_the_role(folder, venv)
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment(tmp_path / "home"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert installed(venv / "bin/python") == seeds | lock(name)


@pytest.mark.slow
def test_locking_again_moves_nothing_although_everything_has_newer_releases(
    clone: Path, index: Path, tmp_path: Path
) -> None:
    (function,) = re.findall(r"^lock\(\) \{\n.*?^\}$", (clone / "run").read_text(), re.MULTILINE | re.DOTALL)
    before = {n: (clone / "requirements" / f"{n}.txt").read_text() for n in LOCKS}
    with serve(index) as url:
        env = {**environment(tmp_path / "home"), "UV_DEFAULT_INDEX": url}
        env["PATH"] = f"{Path(uv_binary()).parent}:{env['PATH']}"
        subprocess.run(["bash", "-c", f"set -euo pipefail\n{function}\nlock"], cwd=clone, env=env, check=True)
    assert {n: (clone / "requirements" / f"{n}.txt").read_text() for n in LOCKS} == before
