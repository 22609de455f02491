"""Every way to shorten, lengthen, swap or repeat a file of a bundle or of a volume: all of them are refused."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from engine import verify as verify_module
from engine.errors import TrustError
from engine.trust import Trusted
from engine.verify import compare, open_bundle, opened, verify
from installer.carry import parity, volumes
from tests.bundles import NOW, Bundle, MemoryKeys, make

CUTS = 1000
FILES = {"files/a": os.urandom(40_000), "files/b": os.urandom(40_000), "models/m/big": os.urandom(300_000)}
METADATA = ("timestamp.json", "snapshot.json", "targets.json", "1.root.json", "2.root.json", "3.root.json")
PINNED = 2  # a root before it, itself, and one after it are in the bundle


@pytest.fixture(scope="module")
def fast() -> Iterator[Path]:
    """A directory in memory, for thousands of durable writes; temporary files go there, too."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="appliance-cuts-", dir="/dev/shm") as place:
        tempfile.tempdir = place
        yield Path(place)
        tempfile.tempdir = before


@pytest.fixture(scope="module")
def bundle(fast: Path) -> Bundle:
    where = fast / "whole"
    keys = MemoryKeys(where / "keys", threshold=1, root_keys=1)
    keys.replace("timestamp")
    keys.replace("snapshot")
    return make(where, FILES, keys=keys, chunk_size=50_000)


@pytest.fixture(scope="module")
def trusted(bundle: Bundle) -> Trusted:
    return open_bundle(bundle.path, bundle.keys.roots[PINNED])


@pytest.fixture(scope="module")
def media(bundle: Bundle, trusted: Trusted, fast: Path) -> list[Path]:
    """Two volumes and their parity."""
    out = fast / "media"
    made = volumes.layout(bundle.path, trusted, size=volumes.RESERVE + 230_000, out=out)
    for number in range(1, len(made.volumes) + 1):
        volumes.write(bundle.path, trusted, made, number, NOW)
    parity.write(made, trusted, [out], NOW)
    return sorted(out.iterdir())


def cuts(size: int) -> Iterator[int]:
    """A thousand lengths below ``size``, or all when it is shorter."""
    yield from range(size) if size <= CUTS else (size * i // CUTS for i in range(CUTS))


def survivors(file: Path, refused: Callable[[], bool]) -> list[int]:
    """Lengths at which the cut file, and extensions with which the longer one, was not refused."""
    whole = file.read_bytes()
    left = []
    try:
        for length in cuts(len(whole)):
            os.truncate(file, length)
            if not refused():
                left.append(length)
            file.write_bytes(whole)
        for extension in (b"\0", b"\n{}", b"x" * 4096, whole):
            file.write_bytes(whole + extension)
            if not refused():
                left.append(len(whole) + len(extension))
    finally:
        file.write_bytes(whole)
    return left


@pytest.mark.parametrize("name", METADATA)
def test_metadata_cut_or_lengthened_anywhere_are_refused(bundle: Bundle, trusted: Trusted, name: str) -> None:
    pinned = bundle.keys.roots[PINNED]

    def refused() -> bool:
        if name in ("1.root.json", "2.root.json"):  # which the client does not read, for it has the pinned one
            return f"metadata/{name}" in [f.path for f in opened(bundle.path, pinned)[1]]
        try:
            open_bundle(bundle.path, pinned)
        except TrustError:
            return True
        return False

    assert not refused()
    assert survivors(bundle.path / "metadata" / name, refused) == []


@pytest.mark.parametrize("name", ["content/files/a", "content/models/m/big", "README.txt"])
def test_a_file_cut_or_lengthened_anywhere_is_refused_and_named(bundle: Bundle, trusted: Trusted, name: str) -> None:
    def refused() -> bool:
        return [(f.problem, f.path) for f in compare(bundle.path, trusted).findings] == [("changed", name)]

    assert survivors(bundle.path / name, refused) == []


@pytest.mark.parametrize("number", range(2))
def test_a_piece_or_file_of_a_volume_cut_or_lengthened_anywhere_is_refused(
    media: list[Path], trusted: Trusted, number: int
) -> None:
    volume = media[number]
    assert volumes.check(volume, trusted) == []
    name = max((p for p in volume.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)

    def refused() -> bool:
        return [(f.problem, f.path) for f in volumes.check(volume, trusted)] == [
            ("changed", str(name.relative_to(volume)))
        ]

    assert survivors(name, refused) == []


def test_a_parity_volume_cut_or_lengthened_anywhere_makes_nothing_that_is_not_signed(
    media: list[Path], trusted: Trusted, fast: Path
) -> None:
    """The second volume is lost; parity makes it again, or says that it cannot."""
    lost, spare, kept = media[1], media[-1], [m for m in media if m != media[1]]
    assert parity.recover(kept, trusted, fast / "good")
    stream = max((p for p in spare.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = stream.read_bytes()

    def refused() -> bool:
        out = fast / "out"
        out.mkdir()
        try:
            parity.recover(kept, trusted, out)
        except TrustError:
            return not any(out.iterdir())
        finally:
            shutil.rmtree(out)
        return False

    # Its own hash ends where its index says, so what is behind it is never read: the lost volume comes back as signed.
    assert all(length > len(whole) for length in survivors(stream, refused))
    stream.write_bytes(whole + b"x")
    [made] = parity.recover(kept, trusted, fast / "again")
    stream.write_bytes(whole)
    assert volumes.check(made, trusted) == []
    assert volumes.check(lost, trusted) == []


def test_two_members_of_one_size_exchanged_are_both_named(bundle: Bundle, media: list[Path], trusted: Trusted) -> None:
    def exchanged(top: Path, one: str, other: str) -> None:
        spare = top.parent / "spare"
        (top / one).rename(spare)
        (top / other).rename(top / one)
        spare.rename(top / other)

    pair = ("content/files/a", "content/files/b")
    exchanged(bundle.path, *pair)
    found = verify(bundle.path, bundle.keys.roots[PINNED]).findings
    exchanged(bundle.path, *pair)
    assert [(f.problem, f.path) for f in found] == [("changed", p) for p in pair]
    pieces = [p for p in media[0].rglob("*") if p.is_file() and p.stat().st_size == 50_000][:2]
    names = [str(p.relative_to(media[0])) for p in pieces]
    exchanged(media[0], *names)
    found = tuple(volumes.check(media[0], trusted))
    exchanged(media[0], *names)
    assert sorted((f.problem, f.path) for f in found) == sorted(("changed", n) for n in names)


@pytest.mark.parametrize("where", ["content/files/again", "metadata/again.json", "metadata/04.root.json", "again"])
def test_a_member_that_is_there_twice_is_named(bundle: Bundle, media: list[Path], trusted: Trusted, where: str) -> None:
    for top, source in ((bundle.path, "content/files/a"), (media[0], "metadata/targets.json")):
        shutil.copyfile(top / source, top / where) if (top / where).parent.is_dir() else None
        pinned = bundle.keys.roots[PINNED]
        if top == bundle.path:
            found = list(verify(top, pinned).findings)
        else:
            found = [*opened(top, pinned)[1], *volumes.check(top, trusted)]
        there = (top / where).exists()
        (top / where).unlink(missing_ok=True)
        assert [f.path for f in found] == ([where] if there else [])


def test_a_root_before_the_pinned_one_must_lead_to_it(bundle: Bundle) -> None:
    """Nothing is trusted because of it, but an auditor reads it: it is what it says, or it is named."""
    file = bundle.path / "metadata/1.root.json"
    honest = file.read_bytes()
    for other in (bundle.keys.roots[2], MemoryKeys(bundle.path.parent / "strangers").roots[1]):
        file.write_bytes(other)
        found = verify(bundle.path, bundle.keys.roots[PINNED]).findings
        file.write_bytes(honest)
        assert [(f.problem, f.path) for f in found] == [("changed", "metadata/1.root.json")]


def test_an_old_root_with_keys_that_the_starting_kit_cannot_check_is_not_called_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kit's Python has no cryptography: of roots before the pinned one it can check those with Ed25519 keys alone."""
    keys = MemoryKeys(tmp_path / "keys", threshold=1, root_keys=1)
    old, new = CryptoSigner.generate_ecdsa(), keys.root_signers[0]

    def to_ecdsa(root: Root) -> None:
        root.revoke_key(new.public_key.keyid, "root")
        root.add_key(old.public_key, "root")

    keys.next_root(to_ecdsa, [new, old])

    def back(root: Root) -> None:
        root.revoke_key(old.public_key.keyid, "root")
        root.add_key(new.public_key, "root")

    keys.next_root(back, [old, new])
    bundle = make(tmp_path, {"files/a": b"a"}, keys=keys)
    assert opened(bundle.path, keys.roots[3])[1] == []

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    can = {n: verify_module._can_check(Metadata[Root].from_bytes(r).signed) for n, r in keys.roots.items()}
    assert can == {1: True, 2: False, 3: True}
