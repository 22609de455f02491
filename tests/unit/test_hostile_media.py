"""What a hostile medium or source can do between, before and around the checks: nothing but be refused."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path
from typing import BinaryIO

import pytest
import urllib3

from engine import tree, trust, verify
from engine.errors import InputError, TrustError, UpstreamError
from installer import yamlfile
from installer.depot import Depot
from installer.kinds import oci, wheels
from installer.site import events
from tests.bundles import Bundle, make

FILES = {"files/a": b"a" * 50_000, "files/b": b"b" * 50_000, "models/m/w": b"w" * 10}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make(tmp_path, FILES)


@pytest.fixture
def root(tmp_path: Path, bundle: Bundle) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(bundle.root)
    return path


def problems(bundle: Bundle) -> set[tuple[str, str]]:
    return {(f.problem, f.path) for f in verify.verify(bundle.path, bundle.root).findings}


def test_a_file_swapped_between_listing_and_copy_never_reaches_the_depot(
    bundle: Bundle, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = tree.open_beneath

    def swapping(where: Path, path: str) -> BinaryIO:
        if path == "content/files/a":
            evil = where / "evil"
            evil.write_bytes(b"e" * 50_000)
            evil.replace(where / path)
        return honest(where, path)

    monkeypatch.setattr(tree, "open_beneath", swapping)
    depot = Depot(tmp_path / "depot")
    with pytest.raises(TrustError) as caught:
        depot.import_bundle(bundle.path, root_json=root)
    assert caught.value.where == "content/files/a"
    assert depot.releases() == []


def test_a_file_changed_while_it_is_copied_is_refused(
    bundle: Bundle, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = tree.open_beneath

    def changing(where: Path, path: str) -> BinaryIO:
        file = honest(where, path)
        if path == "content/files/b":
            with (where / path).open("r+b") as same:
                same.seek(49_999)
                same.write(b"!")
        return file

    monkeypatch.setattr(tree, "open_beneath", changing)
    with pytest.raises(TrustError):
        Depot(tmp_path / "depot").import_bundle(bundle.path, root_json=root)


def test_a_directory_exchanged_for_a_link_again_and_again_is_never_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root" / "d", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "f").write_bytes(b"inside")
    (outside / "f").write_bytes(b"outside")
    link, away, stop = tmp_path / "link", tmp_path / "away", threading.Event()
    link.symlink_to(outside)

    def exchange() -> None:
        while not stop.is_set():
            inside.rename(away)
            link.rename(inside)
            inside.rename(link)
            away.rename(inside)

    thread = threading.Thread(target=exchange)
    thread.start()
    outcomes = set()
    try:
        for _ in range(5000):
            try:
                with tree.open_beneath(tmp_path / "root", "d/f") as file:
                    outcomes.add(file.read())
            except (TrustError, FileNotFoundError) as error:
                outcomes.add(type(error).__name__.encode())
    finally:
        stop.set()
        thread.join()
    assert b"inside" in outcomes
    assert b"outside" not in outcomes


def test_directories_without_end_are_refused_and_not_recursed_into(bundle: Bundle) -> None:
    fd = os.open(bundle.path, os.O_RDONLY)
    for _ in range(600):  # more bytes than a path may have, and few enough for the test's own clean-up
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(TrustError, match="longer paths"):
        verify.verify(bundle.path, bundle.root)


def test_files_without_end_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_ENTRIES", 20)
    for i in range(20):
        (bundle.path / f"x{i}").touch()
    with pytest.raises(TrustError, match="more files"):
        verify.verify(bundle.path, bundle.root)


def test_a_name_that_would_drive_a_terminal_is_escaped(bundle: Bundle) -> None:
    (bundle.path / "\x1b[2J\udcff").touch()
    assert problems(bundle) == {("extra", r"\x1b[2J\udcff")}


def test_a_root_of_trust_that_never_ends_is_refused_at_once(tmp_path: Path) -> None:
    pipe, long = tmp_path / "pipe", tmp_path / "long"
    os.mkfifo(pipe)
    long.write_bytes(b"{" * (trust.CONFIG.root_max_length + 1))
    for path in (pipe, Path("/dev/zero"), long, tmp_path):
        with pytest.raises(InputError):
            Depot(tmp_path / "depot").pin(path)


def test_a_wrong_root_of_trust_is_not_kept(bundle: Bundle, root: Path, tmp_path: Path) -> None:
    depot, wrong = Depot(tmp_path / "depot"), tmp_path / "wrong.json"
    wrong.write_text("{}")
    with pytest.raises(TrustError):
        depot.import_bundle(bundle.path, root_json=wrong)
    assert not depot.pinned_root.exists()
    assert depot.import_bundle(bundle.path, root_json=root).changed


def test_names_that_unicode_calls_equal_are_told_apart_and_refused(bundle: Bundle) -> None:
    with pytest.raises(TrustError):
        tree.check_path("content/e\u0301")
    assert tree.collisions(["content/stra\u00dfe", "content/STRASSE"])


def test_a_compressed_bomb_in_place_of_metadata_is_not_unpacked() -> None:
    class Bomb:
        status = 200

        def stream(self, _n: int, decode_content: bool | None = None) -> list[bytes]:
            assert decode_content is False
            return [b"as sent"]

        def close(self) -> None: ...

    class Pool(urllib3.PoolManager):
        def request(self, *_args: object, **_more: object) -> Bomb:  # type: ignore[override]
            return Bomb()

    assert list(trust.HttpFetcher(Pool())._fetch("http://depot/metadata/timestamp.json")) == [b"as sent"]


def test_an_answer_that_breaks_off_is_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    class Broken(urllib3.PoolManager):
        def request(self, *_args: object, **_more: object) -> urllib3.BaseHTTPResponse:
            class Response:
                status = 200

                def stream(self, *_: object, **__: object) -> bytes:
                    raise urllib3.exceptions.ProtocolError("cut")

                def close(self) -> None: ...

            return Response()  # type: ignore[return-value]

    with pytest.raises(UpstreamError, match="cut"):
        trust.refresh(
            fetcher=trust.HttpFetcher(Broken()), url="http://depot", state=tmp_path / "t", pinned_root=bundle.root
        )


def test_a_bomb_in_a_wheel_is_not_unpacked_and_what_is_no_wheel_is_a_sentence(tmp_path: Path) -> None:
    bomb, junk = tmp_path / "bomb.whl", tmp_path / "junk.whl"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a-1.dist-info/METADATA", b"\0" * (wheels.MAX_METADATA + 1))
    assert wheels.metadata_of(bomb) == b""
    junk.write_bytes(bomb.read_bytes()[:-30])
    with pytest.raises(TrustError, match="not a wheel"):
        wheels.metadata_of(junk)


@pytest.mark.parametrize(
    "raw", [b'{"manifests": [{"digest": "sha256:%s", "size": -1}]}' % (b"a" * 64), b"[" * 100_000, b"1" * 5000]
)
def test_a_hostile_image_manifest_is_a_sentence(raw: bytes) -> None:
    with pytest.raises(InputError, match=r"without SHA-256|not JSON"):
        oci.choose(raw, "amd64")


def test_a_platform_that_is_no_table_is_no_platform() -> None:
    raw = b'{"manifests": [{"digest": "sha256:%s", "size": 1, "platform": true}]}' % (b"a" * 64)
    with pytest.raises(InputError, match="not made for"):
        oci.choose(raw, "amd64")


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "a: 2026-99-99", "[a]: 1\n[b]: 2", "a: " + "9" * 5000, "? {a: 1}\n: 2"]
)
def test_hostile_yaml_is_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    with pytest.raises(InputError):
        yamlfile.load(file)


@pytest.mark.parametrize(
    "res", [[], "x", {"results": [1, {"failed": True, "results": 3}]}, {"results": {"a": 1}}, {"msg": {}}]
)
def test_a_nodes_answer_of_any_shape_becomes_a_reason(res: object) -> None:
    tracker = events.Tracker(["n1"])
    tracker.handle({"event": "runner_on_failed", "event_data": {"host": "n1", "task": "t", "res": res}})
    assert tracker.failures[0].reason
