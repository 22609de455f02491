"""The product's own wheels hold what git tracks (or what an installed copy lists), whatever else lies in the tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.errors import ResourceError, TrustError
from engine.report import Silent
from installer import lockfile, product
from installer.definition import Definition
from installer.evidence import provenance
from installer.kinds import Work, own, ownfiles, ownwheel, uvresolve
from tests.demo import TREE

SECRETS = {
    "id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\npl4nted-ssh-key",
    ".vault_pass": "pl4nted-vault-password",
    "group_vars/all/site.yml": "pl4nted-group-vars: 198.51.100.77",
    "hosts.yml": "pl4nted-inventory",
    "secret.py": "TOKEN = 'pl4nted-python-token'",
    # Names that .gitignore has: nobody would see them in `git status`.
    "build/key": "pl4nted-ignored-key",
    "dist/token.py": "pl4nted-ignored-token",
    "x.egg-info/PKG-INFO": "pl4nted-ignored-metadata",
    "__pycache__/credentials.py": "pl4nted-cached-credentials",
}


def git(tree: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=tree, check=True, capture_output=True, text=True).stdout


def clone_of_this_checkout(tree: Path) -> Path:
    """A clone at ``tree`` of this checkout as it stands, changes included."""
    sources = ownfiles.read(TREE)  # with what is being worked on: new modules, which the others import
    ownfiles.copy(replace(sources, files=sources.files | dict.fromkeys(sources.untracked, 0o644)), tree)
    git(tree, "init", "-q")
    git(tree, "add", "--force", ".")  # also what is tracked although .gitignore names it
    git(tree, "commit", "-qm", "all")
    return tree


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone_of_this_checkout(tmp_path_factory.mktemp("clone") / "appliance")


@pytest.fixture
def clone(clean: Path, tmp_path: Path) -> Path:
    tree = tmp_path / "appliance"
    shutil.copytree(clean, tree, symlinks=True)
    return tree


def plant(tree: Path, outside: Path) -> int:
    """Every secret in every directory that could be packed, and links to what lies outside; how many files that were."""
    outside.mkdir()
    (outside / "token").write_text("pl4nted-behind-a-link")
    directories = sorted({p for b in ownfiles.BELOW for p in [tree / b, *(tree / b).rglob("*")] if p.is_dir()})
    planted = 0
    for directory in directories:
        for name, text in SECRETS.items():
            file = directory / name
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
                planted += 1
        (directory / "link.yml").symlink_to(outside / "token")
        (directory / "linked").symlink_to(outside)
        os.link(outside / "token", directory / "hard.yml")
        planted += 3
    return planted


def built(tree: Path, out: Path) -> dict[str, bytes]:
    """Every file of both wheels as the code in ``tree`` makes them, as WHEEL/PATH."""
    script = (
        "import sys, pathlib; from installer.kinds import Work, own; from installer.definition import Definition; from engine.blobs import Blobs\n"
        "text = {'schema': 1, 'name': 'd', 'version': '1.0.0', 'target': {'os': 'debian-12', 'python': '3.11'}}\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "made = own._wheels(Work(Definition.model_validate(text), out, Blobs(out / 'cache')), out)\n"
        "print(*made.values(), sep='\\n')\n"
    )
    out.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", script, out], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, bytes] = {}
    for wheel in map(Path, done.stdout.split()):
        with zipfile.ZipFile(wheel) as archive:
            found |= {f"{wheel.name}/{n}": archive.read(n) for n in archive.namelist()}
    return found


def test_nothing_that_git_does_not_track_is_in_the_wheels(clean: Path, clone: Path, tmp_path: Path) -> None:
    assert plant(clone, tmp_path / "outside") > 2000
    before, after = built(clean, tmp_path / "before"), built(clone, tmp_path / "after")
    assert [name for name, data in after.items() if b"pl4nted" in data] == []
    assert after == before
    tracked = {p for p in ownfiles.read(clone).files if p.startswith(("roles/", "playbooks/", "inventories/"))}
    packed = {n.partition("/installer/product/")[2] for n in after if "/installer/product/" in n}
    assert tracked <= packed
    assert packed - tracked == {"requirements/control.txt", "requirements/node.txt"}


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_what_is_changed_or_left_out_is_said_and_a_change_is_in_lock_and_provenance(clone: Path) -> None:
    (clone / "engine/errors.py").write_text("changed = 1\n")
    (clone / "roles/vllm/tasks/main.yml").unlink()
    (clone / "inventories/mine").mkdir()
    (clone / "inventories/mine/hosts.yml").write_text("pl4nted")
    sources, said = ownfiles.read(clone), Said()
    ownfiles.say(sources, said)
    assert "2 files of this checkout are not as committed" in said.lines[0]
    assert "engine/errors.py, roles/vllm/tasks/main.yml" in said.lines[0]
    assert said.lines[1].startswith("1 files that git does not track are left out")
    assert said.lines[1].endswith("inventories/mine/hosts.yml")
    assert sources.product.commit == git(clone, "rev-parse", "HEAD").strip()
    text = {"schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}}
    definition = Definition.model_validate(text)
    dirty = lockfile.make(definition, [], product=sources.product)
    told = json.dumps(provenance.statement(dirty))
    for word in (sources.product.commit, "engine/errors.py", "roles/vllm/tasks/main.yml"):
        assert word in told
        assert word in lockfile.dump(dirty)
    assert "mine" not in told + lockfile.dump(dirty)
    # The same content from another commit is no change of the lock; a tree that was not as committed is.
    pure = lockfile.make(definition, [], product=lockfile.Product(commit="a" * 40))
    later = lockfile.make(definition, [], product=lockfile.Product(commit="b" * 40))
    assert lockfile.kept(pure, later) is pure
    assert lockfile.kept(pure, dirty) is dirty
    assert lockfile.kept(dirty, pure) is pure


def test_a_clean_clone_says_nothing(clean: Path) -> None:
    sources, said = ownfiles.read(clean), Said()
    ownfiles.say(sources, said)
    assert (said.lines, sources.product.changed, sources.untracked) == ([], (), ())


def test_a_tracked_file_that_was_replaced_with_a_link_is_refused_and_named(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("pl4nted")
    (clone / "engine/errors.py").unlink()
    (clone / "engine/errors.py").symlink_to(tmp_path / "key")
    with pytest.raises(TrustError, match=r"engine/errors\.py: a file that git tracks is a link"):
        ownfiles.copy(ownfiles.read(clone), tmp_path / "copy")


def test_a_directory_that_was_replaced_with_a_link_is_refused(clone: Path, tmp_path: Path) -> None:
    shutil.move(clone / "roles/vllm", tmp_path / "elsewhere")
    (clone / "roles/vllm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrustError, match=r"roles/vllm/.*: a file that git tracks is a link, below a link"):
        ownfiles.copy(ownfiles.read(clone), tmp_path / "copy")


def test_a_link_that_git_tracks_is_refused(clone: Path) -> None:
    (clone / "inventories/key").symlink_to("/etc/hostname")
    git(clone, "add", "inventories/key")
    with pytest.raises(TrustError, match="inventories/key: git tracks a link"):
        ownfiles.read(clone)


def test_a_tree_without_a_repository_of_its_own_is_refused(clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(clone / ".git")
    with pytest.raises(ResourceError, match=r"nobody can say which files .*: not a git repository"):
        ownfiles.read(clone)
    git(tmp_path, "init", "-q")  # of a home directory, say
    git(tmp_path, "add", ".")
    with pytest.raises(ResourceError, match="it belongs to the repository") as refused:
        ownfiles.read(clone)
    assert "git clone" in refused.value.remedy


def test_neither_the_operator_s_nor_the_checkout_s_configuration_of_git_runs_or_hides_anything(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = tmp_path / "ran"
    git(clone, "config", "core.fsmonitor", f"touch {touched}; false")
    git(clone, "config", "core.excludesFile", str(tmp_path / "ignore"))
    (tmp_path / ".gitconfig").write_text("[status]\n\tshowUntrackedFiles = no\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    (clone / "engine/new.py").write_text("")
    assert ownfiles.read(clone).untracked == ("engine/new.py",)
    assert not touched.exists()


@pytest.fixture
def installed(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both wheels installed into a directory, as a builder without a checkout has them, and looked at by this process."""
    built(clean, tmp_path / "wheels")
    wheels = sorted((tmp_path / "wheels").glob("*/*.whl"))
    assert len(wheels) == 2
    place = tmp_path / "site"
    command = [uvresolve.uv_binary(), "pip", "install", "-q", "--no-config", "--offline", "--no-deps", "--link-mode", "copy"]  # fmt: skip
    subprocess.run([*command, "--python", sys.executable, "--target", place, *wheels], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(product, "PACKAGE", place / "installer")
    return place


def made(tmp_path: Path) -> dict[str, dict[str, bytes]]:
    text = {"schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}}
    found = {}
    work = Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"))
    for name, wheel in own._wheels(work, tmp_path / "again").items():
        with zipfile.ZipFile(wheel) as archive:
            assert archive.testzip() is None
            found[name] = {n: archive.read(n) for n in archive.namelist()}
    return found


def test_an_installed_copy_packs_what_its_record_lists_and_nothing_beside_it(installed: Path, tmp_path: Path) -> None:
    assert product.checkout() is None
    (installed / "installer/product/inventories/mine").mkdir(parents=True)
    (installed / "installer/product/inventories/mine/hosts.yml").write_text("pl4nted")
    (installed / "engine/secret.py").write_text("pl4nted")
    again = made(tmp_path)
    assert own.origin() == lockfile.Product(origin="installed copy")
    for name, files in again.items():
        [wheel] = (tmp_path / "wheels" / name).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            before = {n: archive.read(n) for n in archive.namelist()}
        record = next(n for n in files if n.endswith("/RECORD"))
        assert sorted(files.pop(record).splitlines()) == sorted(before.pop(record).splitlines())
        assert files == before


def test_an_installed_file_that_was_changed_or_replaced_with_a_link_is_refused(installed: Path, tmp_path: Path) -> None:
    file = installed / "installer/product/playbooks/site.yml"
    text = file.read_bytes()
    file.write_bytes(text + b"# pl4nted\n")
    with pytest.raises(TrustError, match=r"site\.yml: an installed file was changed"):
        made(tmp_path)
    (tmp_path / "outside").write_bytes(text)
    file.unlink()
    file.symlink_to(tmp_path / "outside")
    with pytest.raises(TrustError, match=r"site\.yml: an installed file is missing or a link"):
        made(tmp_path)


def test_an_editable_installation_is_not_taken_for_a_wheel(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="does not list its files with hashes"):
        ownwheel.make("appliance", TREE / "installer/__init__.py", tmp_path, 0)
