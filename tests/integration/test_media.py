"""Media as people bring them: exFAT without links and permissions, FAT32's longest file, a medium that is full or too small."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import placing
from engine.blobs import Blobs, hash_file
from engine.copying import copy_target
from engine.durable import write
from engine.errors import InputError, ResourceError, TrustError
from engine.trust import Target, Trusted
from engine.verify import open_bundle, verify
from installer import lockfile, medium
from installer.bundle import build as building
from installer.carry import delta, parity, volumes
from installer.cli.options import default_cache
from installer.definition import Definition
from installer.depot import Depot
from installer.kinds import Work
from installer.lockfile import Artifact
from tests.bundles import NOW, Bundle, MemoryKeys, make
from tests.integration.test_signing import People
from tests.media import exfat, fat32


@pytest.fixture
def stick(tmp_path: Path) -> Iterator[Path]:
    with exfat(tmp_path, 700 << 20) as place:
        yield place


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Five files, two of which have hashes of their pieces."""
    files = {f"files/f{n}": os.urandom(300_000 * n) for n in range(1, 6)}
    return make(tmp_path / "bundles", files, chunk_size=1 << 20)


@pytest.fixture
def trusted(bundle: Bundle) -> Trusted:
    return open_bundle(bundle.path, bundle.root)


def same(one: Path, other: Path) -> bool:
    """Whether two trees hold the same files."""
    trees = [
        {str(p.relative_to(root)): hash_file(p)[0] for p in root.rglob("*") if p.is_file()} for root in (one, other)
    ]
    return bool(trees[0]) and trees[0] == trees[1]


def work_on(tmp_path: Path, cache: Path, sizes: list[int]) -> tuple[Definition, lockfile.Lock, Work]:
    """A definition of files with these sizes, locked, with its cache at ``cache``."""
    (tmp_path / "sources").mkdir()
    listed, artifacts = [], []
    for n, size in enumerate(sizes):
        data = os.urandom(size)
        (tmp_path / "sources" / f"f{n}").write_bytes(data)
        url, sha256 = (tmp_path / "sources" / f"f{n}").as_uri(), hashlib.sha256(data).hexdigest()
        listed.append({"name": f"f{n}", "url": url, "sha256": sha256, "profiles": ["gpu"]})
        artifacts.append(
            Artifact(
                path=f"files/f{n}", kind="files", name=f"f{n}", size=size, sha256=sha256, source=url, profiles=("gpu",)
            )
        )
    target = {"os": "debian-12", "python": "3.11"}
    definition = Definition.model_validate(
        {"schema": 1, "name": "demo", "version": "1.0.0", "target": target, "files": listed}
    )
    return definition, lockfile.make(definition, artifacts), Work(definition, tmp_path, Blobs(cache))


def build(made: tuple[Definition, lockfile.Lock, Work], out: Path, keys: MemoryKeys) -> building.Built:
    definition, lock, work = made
    building.require_space(out, lock.artifacts, work)
    return building.build(definition, lock, work, out, keys=keys, passphrase="", days=30, now=NOW)


def test_what_media_hold_is_found_by_asking(stick: Path, tmp_path: Path) -> None:
    found = medium.ask(stick / "not/there/yet")
    assert (found.place, found.links, found.symlinks, found.modes) == (stick, False, False, False)
    assert set(medium.RESERVED) <= set(found.refused)
    assert found.longest is None
    assert found.cut_above == medium.FAT_LONGEST  # this driver does not say, and pieces are safe everywhere
    with fat32(tmp_path, 300 << 20) as place:
        fat = medium.ask(place)
        assert (fat.links, fat.modes, fat.longest, fat.cut_above) == (False, False, medium.FAT_LONGEST, fat.longest)
        assert list(place.iterdir()) == []
    with fat32(_below(tmp_path / "Müller s drive"), 300 << 20) as place:
        assert medium.ask(place).kind == "fuse.fusefat"
    own = medium.ask(tmp_path)
    assert (own.links, own.symlinks, own.modes, own.refused) == (True, True, True, "")
    assert (own.longest, own.sure, own.cut_above) == (None, True, None)
    assert not [p for p in (*stick.iterdir(), *tmp_path.iterdir()) if p.name.startswith(".appliance-")]


@pytest.mark.parametrize("on_stick", ["out", "cache", "both"])
def test_a_bundle_is_built_onto_a_medium_and_from_a_cache_on_one(on_stick: str, stick: Path, tmp_path: Path) -> None:
    keys, here = MemoryKeys(tmp_path / "keys"), tmp_path / "disk"
    out = here / "out" if on_stick == "cache" else stick / "out"
    made = work_on(tmp_path, here / "cache" if on_stick == "out" else stick / "cache", [10, 2_000_000, 0])
    built = build(made, out, keys)
    assert verify(built.path, keys.roots[1]).good
    twice = build(made, out, keys)  # in the place of the first
    assert (twice.path, twice.content_digest) == (built.path, built.content_digest)
    assert [p.name for p in out.iterdir() if not p.name.endswith(".lock")] == ["demo-1.0.0"]


def test_a_cache_that_rotted_is_found_while_it_is_copied_and_the_next_run_completes(
    stick: Path, tmp_path: Path
) -> None:
    keys, made = MemoryKeys(tmp_path / "keys"), work_on(tmp_path, tmp_path / "cache", [2_000_000])
    build(made, stick / "out", keys)
    blob = made[2].cache.path(made[1].artifacts[0].sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"rot")
    with pytest.raises(TrustError, match="cache holds damaged content"):
        build(made, stick / "again", keys)
    assert [p.name for p in (stick / "again").iterdir()] == [".demo-1.0.0.lock"]
    assert verify(build(made, stick / "again", keys).path, keys.roots[1]).good


def test_every_command_works_with_a_medium_without_links(
    stick: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    people = People(tmp_path, default_cache(), capfd, monkeypatch)
    keys, root, depot = ("--keys", people.keys), ("--root", people.keys / "root.json"), ("--depot", people.depot)
    people.types("keys", "init", *keys)
    definition = people.place / "small.yml"
    people.types("lock", definition, "--cache", default_cache())
    on_stick = ("--out", stick, "--cache", default_cache())
    made = Path(people.types("build", "bundle", definition, *keys, *on_stick)["bundle"])
    assert people.types("verify", made, *root)["good"]
    people.types("kit", made, "--out", stick / "kit", *keys)
    told = subprocess.run(["sh", stick / "kit/verify", made], check=True, capture_output=True, text=True)
    assert "is good" in told.stdout
    split = people.types("split", made, "--size", "40M", "--out", stick / "v", "--parity", "1", *keys)
    media = [Path(v["volume"]) for v in split["volumes"]]
    rest = [p for p in (stick / "v").iterdir() if p != media[0]]
    recovered = people.types("recover", *rest, "--out", stick / "recovered", *root)["recovered"]
    assert same(Path(recovered[0]) / "content", media[0] / "content")
    assert people.types("import", recovered[0], *media[1:], *depot, *root)["complete"]
    site = ("--site-keys", people.place / "site", "--runs", people.place)
    sent = people.types("receipt", "--out", stick / "r.json", *site, *depot)
    receipt = ("--receipt", stick / "r.json", "--site", sent["public"])
    people.types("delta", made, "--out", stick / "delta", *receipt, *root)
    assert people.types("verify", stick / "delta", *root, *depot)["good"]
    people.types("import", stick / "delta", *depot)
    people.types("page", made, "--out", stick / "page.html", *root)
    people.types("sbom", made, "--out", stick / "bill.cdx.json", *root)
    assert (stick / "page.html").read_text().startswith("<!doctype html>")
    refused = people.types("import", made, "--depot", stick / "depot", *root, ok=6)
    assert "no hard links" in refused["error"]["what"]
    assert not (stick / "depot").exists()
    kept = people.types("keys", "init", "--keys", stick / "keys", ok=6)
    assert "keeps no permissions" in kept["error"]["what"]
    assert not list(stick.rglob("*.pem"))


def big(trusted: Trusted, sizes: dict[str, int], chunk: int) -> Trusted:
    """The same release with made-up files; nobody reads them in a plan."""
    files = {}
    for n, (path, size) in enumerate(sizes.items(), 1):
        chunks = ("0" * 64,) * -(-size // chunk) if chunk else ()
        files[path] = Target(path, size, f"{n:064x}", "models", chunk_size=chunk, chunks=chunks)
    return Trusted(**{**vars(trusted), "targets": files})


def planned(bundle: Bundle, sizes: dict[str, int]) -> None:
    """Sparse files, so that ``split`` finds them."""
    for path, size in sizes.items():
        (bundle.path / path).parent.mkdir(parents=True, exist_ok=True)
        with (bundle.path / path).open("wb") as file:
            file.truncate(size)


def test_fat32_gets_long_files_in_pieces_whatever_room_it_has(bundle: Bundle, trusted: Trusted, tmp_path: Path) -> None:
    """A medium of 200 GB: five files of 4.4 GB are far less than a tenth of it each."""
    sizes = {f"content/models/m{n}": 4_400_000_000 for n in range(5)} | {"content/models/s": 4_000_000_000}
    planned(bundle, sizes)
    with fat32(tmp_path, 200_000_000_000) as place:
        made = volumes.layout(bundle.path, big(trusted, sizes, 256 << 20), media=(place,))
        items = [i for v in made.volumes for i in v.items]
        assert max(i.size for i in items if i.piece is None) == 4_000_000_000
        assert {i.target.path for i in items if i.piece is not None} == set(sizes) - {"content/models/s"}
        with pytest.raises(
            ResourceError, match=r"no file longer than 4,294,967,295 bytes.*m0 \(4,400,000,000 bytes"
        ) as no:
            volumes.layout(bundle.path, big(trusted, {"content/models/m0": 4_400_000_000}, 0), media=(place,))
        assert "exFAT" in no.value.remedy
        whole = big(trusted, {"content/models/s": 5, "content/models/x": 5_000_000_000, **sizes}, 256 << 20)
        with pytest.raises(
            ResourceError, match=r"x \(5,000,000,000 bytes\), content/models/m4 \(4,4.* and 1 more"
        ) as no:
            delta.write(bundle.path, whole, place / "delta", ())
        assert "appliance split" in no.value.remedy
        _, lock, work = work_on(tmp_path, tmp_path / "cache", [5])
        long = lock.artifacts[0].model_copy(update={"path": "files/long", "size": 4_294_967_296})
        with pytest.raises(ResourceError, match=r"files/long \(4,294,967,296 bytes") as no:
            building.require_space(place, [*lock.artifacts, long], work)
        assert "appliance split" in no.value.remedy
        assert list(place.iterdir()) == []


def test_volumes_for_media_that_are_not_here_fit_fat32(bundle: Bundle, trusted: Trusted, tmp_path: Path) -> None:
    sizes = {"content/models/m": 4_294_967_296, "content/models/s": 4_294_967_295}
    planned(bundle, sizes)
    made = volumes.layout(bundle.path, big(trusted, sizes, 256 << 20), size=100_000_000_000, out=tmp_path / "v")
    assert {i.target.path for v in made.volumes for i in v.items if i.piece is not None} == {"content/models/m"}


LIMITED = """
import resource, sys
from pathlib import Path
from datetime import UTC, datetime
resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
from engine.verify import open_bundle
from installer.carry import volumes
bundle, place = Path(sys.argv[1]), Path(sys.argv[2])
trusted = open_bundle(bundle, bytes.fromhex(sys.argv[3]))
split = volumes.layout(bundle, trusted, media=(place,))
for number in range(1, len(split.volumes) + 1):
    print(volumes.write(bundle, trusted, split, number, datetime.now(UTC)))
"""


def test_files_are_cut_to_the_longest_that_the_medium_takes(bundle: Bundle, tmp_path: Path) -> None:
    """The limit is this process's own, which counts like a file system's; the depot gets every byte."""
    place = tmp_path / "medium"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, bundle.path, place, bundle.root.hex()],
        check=True,
        capture_output=True,
        text=True,
    )
    volume = Path(done.stdout.strip())
    assert max(p.stat().st_size for p in volume.rglob("*") if p.is_file()) <= 1_200_000
    (tmp_path / "root.json").write_bytes(bundle.root)
    from installer.carry.taking import take_in

    depot = Depot(tmp_path / "depot")
    view = take_in(depot, volume, root_json=tmp_path / "root.json").view
    assert view is not None
    assert same(view / "content", bundle.path / "content")


def test_names_that_a_medium_does_not_take_are_told_before_anything_is_written(stick: Path, tmp_path: Path) -> None:
    odd = make(tmp_path / "bundles", {"models/m/a:b.json": b"1", "models/m/c": b"2"})
    trusted = open_bundle(odd.path, odd.root)
    for attempt in (
        lambda: delta.write(odd.path, trusted, stick / "delta", ()),
        lambda: volumes.layout(odd.path, trusted, media=(stick,)),
    ):
        with pytest.raises(ResourceError, match=r"does not take these names there: content/models/m/a:b\.json"):
            attempt()
    assert list(stick.iterdir()) == []
    (tmp_path / "root.json").write_bytes(odd.root)
    assert Depot(tmp_path / "depot").import_bundle(odd.path, root_json=tmp_path / "root.json").changed


def free(place: Path) -> int:
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


@pytest.fixture
def small_stick(tmp_path: Path) -> Iterator[Path]:
    with exfat(tmp_path, 40 << 20) as place:
        yield place


def test_a_medium_that_fills_in_the_middle_leaves_nothing_half_and_the_next_run_completes(
    bundle: Bundle, trusted: Trusted, small_stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room after the check."""
    split = volumes.layout(bundle.path, trusted, media=(small_stick,))
    real = copy_target

    only_one = threading.Lock()

    def slow(source: Path, target: Target, to: Path, *more: object) -> None:
        with only_one:
            if not (small_stick / "hog").exists():
                (small_stick / "hog").write_bytes(bytes(free(small_stick) - (2 << 20)))
        real(source, target, to, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(volumes, "copy_target", slow)
    monkeypatch.setattr(delta, "copy_target", slow)
    for attempt in (
        lambda: volumes.write(bundle.path, trusted, split, 1, NOW),
        lambda: delta.write(bundle.path, trusted, small_stick / "delta", ()),
    ):
        with pytest.raises(ResourceError, match="the disk is full"):
            attempt()
        assert [p.name for p in small_stick.iterdir()] == ["hog"]
        (small_stick / "hog").unlink()
    monkeypatch.undo()
    assert verify(volumes.write(bundle.path, trusted, split, 1, NOW), bundle.root).trusted.release == "demo-1.0.0"
    assert volumes.check(split.media[0], trusted) == []


def test_a_volume_is_written_again_where_there_is_no_room_for_both(
    bundle: Bundle, trusted: Trusted, tmp_path: Path
) -> None:
    """After a run that ended early the same plan comes out, although its volumes take the room of the media now."""
    with exfat(tmp_path, 9 << 20) as place:
        first = volumes.layout(bundle.path, trusted, media=(place,))
        volumes.write(bundle.path, trusted, first, 1, NOW)
        assert free(place) < sum(i.occupied for i in first.volumes[0].items)
        again = volumes.layout(bundle.path, trusted, media=(place,))
        assert [[i.path for i in v.items] for v in again.volumes] == [[i.path for i in v.items] for v in first.volumes]
        volumes.require_room(again, 1)
        volumes.write(bundle.path, trusted, again, 1, NOW)
        assert volumes.check(again.media[0], trusted) == []
        assert [p.name for p in place.iterdir()] == ["demo-1.0.0.1-of-1"]


def test_volumes_and_parity_that_do_not_fit_together_are_told_first(
    bundle: Bundle, trusted: Trusted, tmp_path: Path
) -> None:
    with exfat(tmp_path, 7 << 20) as place:
        split = volumes.layout(bundle.path, trusted, size=volumes.RESERVE + 3_000_000, out=place)
        with pytest.raises(ResourceError, match="too few are free"):
            volumes.require_room(split, *range(1, len(split.volumes) + 1))
        assert list(place.iterdir()) == []
    with exfat(_below(tmp_path), 9 << 20) as place:
        split = volumes.layout(bundle.path, trusted, size=volumes.RESERVE + 5_000_000, out=place)
        for number in range(1, len(split.volumes) + 1):
            volumes.write(bundle.path, trusted, split, number, NOW)
        before = {p.name for p in place.iterdir()}
        with pytest.raises(ResourceError, match="more than are free"):
            parity.write(split, trusted, [place], NOW)
        assert {p.name for p in place.iterdir()} == before


def _below(tmp_path: Path) -> Path:
    (tmp_path / "second").mkdir(parents=True)
    return tmp_path / "second"


def test_content_is_placed_as_a_link_or_as_a_checked_copy(stick: Path, tmp_path: Path) -> None:
    blob, data = tmp_path / "blob", os.urandom(3 << 20)
    blob.write_bytes(data)
    about = (hashlib.sha256(data).hexdigest(), len(data))
    assert placing.place(blob, tmp_path / "a/link", *about) == 0
    assert (tmp_path / "a/link").samefile(blob)
    assert placing.place(blob, tmp_path / "a/link", *about) == 0
    assert placing.place(blob, stick / "a/copy", *about) == len(data)
    assert (stick / "a/copy").read_bytes() == data
    (stick / "a/copy").write_bytes(b"older")
    assert placing.place(blob, stick / "a/copy", *about) == len(data)
    assert (stick / "a/copy").read_bytes() == data
    with pytest.raises(TrustError, match="not what its name says"):
        placing.place(blob, stick / "b", "0" * 64, len(data))
    with pytest.raises(TrustError, match="not what its name says"):
        placing.place(blob, stick / "b", about[0], len(data) - 1)
    with pytest.raises(ResourceError, match="cannot be linked"):
        placing.place(blob, stick / "b", *about, copies=False)
    assert sorted(p.name for p in stick.rglob("*") if p.is_file()) == ["copy"]


def test_a_secret_is_not_written_where_others_could_read_it(stick: Path) -> None:
    write(stick / "public", "x")
    with pytest.raises(ResourceError, match="keeps no permissions"):
        write(stick / "secret", "x", mode=0o600)
    assert [p.name for p in stick.iterdir()] == ["public"]


def test_a_file_that_is_too_long_for_its_file_system_is_a_sentence(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="File too large"):
            write(tmp_path / "long", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_media_too_small_for_anything_are_told(bundle: Bundle, trusted: Trusted, tmp_path: Path) -> None:
    with exfat(tmp_path, 4 << 20) as place:
        with pytest.raises(InputError, match=r"fits on no medium|too small"):
            volumes.layout(bundle.path, trusted, media=(place,))
        with pytest.raises(ResourceError, match="too few are free"):
            delta.write(bundle.path, trusted, place / "delta", ())
        assert list(place.iterdir()) == []
