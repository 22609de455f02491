"""The repository in a bundle, read by the real apt as a node has it: a deb822 source with Signed-By."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.errors import InputError
from installer import openpgp
from installer.definition import Definition
from installer.kinds import Work, debs
from installer.lockfile import Artifact
from tests.integration import aptsite

EPOCH = 1_760_000_000
KEYRING = "appliance-archive.asc"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> aptsite.Key:
    return aptsite.make_key(tmp_path_factory.mktemp("keys") / "apt", "Site apt repository")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, key: aptsite.Key) -> tuple[Work, list[Artifact]]:
    """Three packages of a vendor, locked and fetched."""
    base = tmp_path_factory.mktemp("vendor")
    with aptsite.serve(base / "site") as site:
        site.deb("libthing", "2:1.4-1")
        site.deb("tool", depends="libthing")
        site.deb("data", "5~rc1+b2", arch="all")
        site.publish(key)
        (base / "vendor.asc").write_bytes(openpgp.public(key[0]))
        definition = Definition.model_validate(
            {
                "schema": 1, "name": "test", "version": "1.0", "target": {"os": "debian-12", "python": "3.11"},
                "debs": {
                    "sources": [{"uri": site.url, "suites": ["./"], "signed_by": "vendor.asc"}],
                    "groups": [{"packages": ["tool", "data"], "profiles": ["gpu"]}],
                },
            }
        )  # fmt: skip
        work = Work(definition, base, Blobs(base / "cache"), epoch=EPOCH, apt_key=key)
        artifacts = debs.resolve(work)
        debs.fetch(work, artifacts)
    return work, artifacts


@pytest.fixture
def repository(locked: tuple[Work, list[Artifact]], tmp_path: Path) -> Iterator[Path]:
    debs.lay_out(*locked, tmp_path / "content")
    yield tmp_path / "content/debs"


class Node:
    """A node's apt: one source, nothing installed."""

    def __init__(self, home: Path, repository: Path, keyring: Path | None = None) -> None:
        for name in ("lists/partial", "archives/partial", "etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d"):
            (home / name).mkdir(parents=True)
        (home / "status").touch()
        source = (
            f"Types: deb\nURIs: file:{repository}\nSuites: ./\nSigned-By: {keyring or repository / KEYRING}\n"
            "Architectures: amd64\n"
        )
        (home / "etc/sources.list.d/appliance.sources").write_text(source)
        (home / "apt.conf").write_text(
            f'Dir::Etc "{home}/etc"; Dir::State "{home}"; Dir::State::status "{home}/status"; Dir::Cache "{home}";'
            'APT::Architecture "amd64"; APT::Architectures { "amd64"; }; Dpkg::Use-Pty "false";'
            'APT::Sandbox::User ""; Acquire::ForceHash "SHA256"; Debug::NoLocking "true";'
        )
        self.home = home

    def apt(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Standard error goes to standard output."""
        return subprocess.run(
            ["apt-get", "-q", "--no-install-recommends", "-y", *args], check=False, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={"APT_CONFIG": str(self.home / "apt.conf"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip


def test_a_nodes_apt_takes_the_repository_with_signed_by_alone(repository: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "node", repository)
    update = node.apt("update")
    assert update.returncode == 0, update.stdout
    assert "W:" not in update.stdout
    asked = node.apt("--print-uris", "install", "tool", "data")
    assert asked.returncode == 0, asked.stdout
    uris = {line.split("'")[1] for line in asked.stdout.splitlines() if line.startswith("'")}
    assert {Path(u).name.replace("%7e", "~").replace("%2b", "+") for u in uris} == {
        "tool_1.0_amd64.deb", "libthing_1.4-1_amd64.deb", "data_5~rc1+b2_all.deb"
    }  # fmt: skip
    got = node.apt("--download-only", "install", "tool", "data")
    assert got.returncode == 0, got.stdout
    assert "Download complete" in got.stdout


def test_every_file_of_the_pool_is_in_packages_with_its_hash(repository: Path) -> None:
    stanzas = [dict(_fields(s)) for s in (repository / "Packages").read_text().split("\n\n") if s.strip()]
    listed = {s["Filename"]: (s["SHA256"], int(s["Size"])) for s in stanzas}
    pool = {
        f"pool/{f.name}": (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_size)
        for f in (repository / "pool").iterdir()
    }
    assert listed == pool
    assert {s["Package"]: s["Version"] for s in stanzas} == {"tool": "1.0", "libthing": "2:1.4-1", "data": "5~rc1+b2"}
    assert "Valid-Until" not in (repository / "Release").read_text()


def _fields(stanza: str) -> list[tuple[str, str]]:
    return [(k, v) for k, _, v in (line.partition(": ") for line in stanza.splitlines() if line[0] != " ")]


@pytest.mark.parametrize("victim", ["Packages", "InRelease"])
def test_a_changed_index_is_refused_by_apt(victim: str, repository: Path, tmp_path: Path) -> None:
    file = repository / victim
    text = file.read_text()
    changed = (
        text.replace("Version: 1.0", "Version: 9.9") if victim == "Packages" else text.replace("test-1.0", "test-9.9")
    )
    assert changed != text
    file.write_text(changed)
    (repository / "Release").write_text("")
    update = Node(tmp_path / "node", repository).apt("update")
    assert update.returncode == 100, update.stdout
    reason = {"Packages": "Hash Sum mismatch", "InRelease": "BADSIG"}[victim]
    assert reason in update.stdout


def test_a_changed_package_is_refused_by_apt(repository: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "node", repository)
    assert node.apt("update").returncode == 0
    deb = repository / "pool/tool_1.0_amd64.deb"
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.unlink()  # the pool's files are links to the cache's
    deb.write_bytes(data)
    got = node.apt("--download-only", "install", "tool")
    assert got.returncode == 100
    assert "Hash Sum mismatch" in got.stdout


def test_a_repository_without_signature_or_with_anothers_is_refused_by_apt(repository: Path, tmp_path: Path) -> None:
    stranger = aptsite.make_key(tmp_path / "stranger", "Stranger")
    (tmp_path / "stranger.asc").write_bytes(openpgp.public(stranger[0]))
    other = Node(tmp_path / "node", repository, tmp_path / "stranger.asc").apt("update")
    assert other.returncode == 100
    assert "NO_PUBKEY" in other.stdout
    (repository / "InRelease").unlink()
    none = Node(tmp_path / "node2", repository).apt("update")
    assert none.returncode == 100
    assert "not signed" in none.stdout


def test_the_same_lock_and_key_give_the_same_bytes(locked: tuple[Work, list[Artifact]], tmp_path: Path) -> None:
    work, artifacts = locked
    debs.lay_out(work, artifacts, tmp_path / "one")
    debs.lay_out(work, artifacts, tmp_path / "two")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two"))
    assert one == two
    assert {"Packages", "Release", "InRelease", KEYRING, "tool_1.0_amd64.deb"} <= set(one)


def test_without_a_key_nothing_is_laid_out(locked: tuple[Work, list[Artifact]], tmp_path: Path) -> None:
    work, artifacts = locked
    unsigned = Work(work.definition, work.base, work.cache, epoch=EPOCH)
    with pytest.raises(InputError, match="appliance keys init"):
        debs.lay_out(unsigned, artifacts, tmp_path / "content")
    assert not (tmp_path / "content").exists()
