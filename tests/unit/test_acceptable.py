"""What `verify` would refuse, `build` refuses before it fetches anything, and `lock` where it can know it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.blobs import Blobs
from engine.errors import InputError, TrustError
from engine.report import Silent
from engine.verify import verify
from installer import lockfile
from installer.bundle import acceptable, build
from installer.cli.checking import read_pinned
from installer.cli.main import app
from installer.definition import Definition
from installer.kinds import Work
from installer.lockfile import Artifact
from installer.trust.keys import KeyStore
from installer.trust.roots import Change
from tests.bundles import NOW, MemoryKeys, make

PASSPHRASE = "a passphrase for this test alone"


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys whose root is valid for 10 days, with a second version of it."""
    place = tmp_path_factory.mktemp("keys") / "keys"
    store = KeyStore(place)
    store.create(PASSPHRASE, root_keys=1, threshold=1, days=10, now=NOW)
    [old] = store.root().roles["timestamp"].keyids
    from installer.trust import signer

    new = signer.new_file(place, "timestamp-2", PASSPHRASE).public
    store.rotate(Change("timestamp", (new,), (old,)), PASSPHRASE, days=10, now=NOW)
    return place


@pytest.fixture
def store(made: Path, tmp_path: Path) -> KeyStore:
    shutil.copytree(made, tmp_path / "keys")
    return KeyStore(tmp_path / "keys")


def file(path: str) -> Artifact:
    return Artifact(path=path, kind="files", name=path.rpartition("/")[2], size=1, sha256="0" * 64, source="https://192.0.2.1/a", profiles=("control",))  # fmt: skip


DEFINITION = Definition.model_validate(
    {"schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}}
)


def built(store: KeyStore, tmp_path: Path, *paths: str, now: datetime) -> None:
    """A build whose artifacts come from an address that nobody has: one that asks for them does not end well, or soon."""
    lock = lockfile.make(DEFINITION, [file(p) for p in paths or ("files/a",)])
    work = Work(DEFINITION, tmp_path, Blobs(tmp_path / "cache"))
    build.build(DEFINITION, lock, work, tmp_path / "out", keys=store, passphrase=PASSPHRASE, days=1, now=now)


def test_an_expired_root_is_refused_before_anything_is_fetched(store: KeyStore, tmp_path: Path) -> None:
    with pytest.raises(
        TrustError, match=r"the root of trust has expired on .*, so every client would refuse"
    ) as refused:
        built(store, tmp_path, now=NOW + timedelta(days=11))
    assert refused.value.where == str(store.root_path)
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_a_root_that_ends_before_the_release_is_said(store: KeyStore) -> None:
    said = Said()
    acceptable.require_roots(store, NOW, 9, said)
    assert said.lines == []
    acceptable.require_roots(store, NOW, 11, said)
    assert "before the release does" in said.lines[0]


def test_a_chain_with_a_gap_a_foreign_or_a_damaged_root_is_refused(store: KeyStore, tmp_path: Path) -> None:
    first, second = store.directory / "1.root.json", store.directory / "2.root.json"
    good = first.read_bytes()
    first.write_bytes(MemoryKeys(tmp_path / "others").roots[1])
    with pytest.raises(TrustError, match=r"2\.root\.json: it does not follow version 1 of the root"):
        built(store, tmp_path, now=NOW)
    first.write_bytes(good[:-40])
    with pytest.raises(TrustError, match=r"1\.root\.json: not a signed root"):
        built(store, tmp_path, now=NOW)
    first.write_bytes(second.read_bytes())
    with pytest.raises(TrustError, match=r"1\.root\.json: it says that it is version 2"):
        built(store, tmp_path, now=NOW)
    first.write_bytes(good)
    second.unlink()
    with pytest.raises(TrustError, match=r"the chain of roots has a gap, or root\.json is not its last"):
        built(store, tmp_path, now=NOW)


@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (("files/Read", "files/read"), "two files differ only in case: content/files/Read and content/files/read"),
        (("files/a", "files/a/b"), "content/files/a would have to be a file and a directory"),
        (("files/A", "files/a/b"), "content/files/A would have to be a file and a directory"),
        (("files/" + "a" * 1015,), "a bundle may not have a file of this name"),  # with content/ before it, too long
    ],
)
def test_names_that_verify_would_refuse_are_refused_before_anything_is_fetched(
    store: KeyStore, tmp_path: Path, paths: tuple[str, ...], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        built(store, tmp_path, *paths, now=NOW)
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_lock_refuses_two_names_that_differ_in_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from installer.kinds import own

    monkeypatch.setattr(own, "resolve", lambda work: [])
    for name in ("Read", "read"):
        (tmp_path / name).write_text("x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    files = "".join(
        f"  - {{name: {n}, url: 'file://{tmp_path}/{n}', sha256: {digest}, profiles: [control]}}\n"
        for n in ("Read", "read")
    )
    definition = tmp_path / "d.yml"
    definition.write_text(
        f"schema: 1\nname: d\nversion: 1.0.0\ntarget: {{os: debian-12, python: '3.11'}}\nfiles:\n{files}"
    )
    done = CliRunner().invoke(app, ["lock", str(definition), "--cache", str(tmp_path / "cache")])
    assert isinstance(done.exception, InputError), done.output
    assert "two files differ only in case: content/files/Read and content/files/read" in done.exception.what
    assert not (tmp_path / "d.lock.yml").exists()


def test_a_bundle_that_verify_would_refuse_is_told_and_a_good_one_passes(tmp_path: Path) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    acceptable.require_good(bundle.path, bundle.keys)
    assert verify(bundle.path, bundle.root).good
    (bundle.path / "content/files/b").write_bytes(b"b")
    with pytest.raises(TrustError, match="would refuse what was built: content/files/b: it is not signed"):
        acceptable.require_good(bundle.path, bundle.keys)
    late = make(tmp_path / "late", {"files/a": b"a"}, now=NOW - timedelta(days=60), days=1)
    with pytest.raises(TrustError, match=r"would refuse what was built: .*expired"):
        acceptable.require_good(late.path, late.keys)


def test_a_damaged_root_given_by_hand_is_named_and_not_the_bundle(tmp_path: Path) -> None:
    bundle = make(tmp_path, {"files/a": b"a"})
    root = tmp_path / "root.json"
    root.write_bytes(bundle.root)
    assert read_pinned([root]) == (bundle.root, str(root))
    text = bundle.root.decode()
    year = str((datetime.now(UTC) + timedelta(days=700)).year)
    assert year in text
    root.write_text(text.replace(year, "2999"))  # parses as before, and its keys have not signed that
    with pytest.raises(TrustError) as refused:
        read_pinned([root])
    assert refused.value.what == "this root of trust is damaged: its own keys have not signed it"
    assert refused.value.where == str(root)
