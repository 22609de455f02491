"""The builder's record of what it hashed lately: what it may leave unread, and what it must not."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.blobs import Blobs, hash_file
from installer.bundle import known
from installer.trust import sign

NOW = datetime(2026, 7, 1, tzinfo=UTC)
DATA = os.urandom(known.SMALLEST)
LOCK = {"large": hashlib.sha256(DATA).hexdigest(), "other": hashlib.sha256(DATA[::-1]).hexdigest()}


@pytest.fixture
def cache(tmp_path: Path) -> Blobs:
    (tmp_path / "cache").mkdir()
    return Blobs(tmp_path / "cache")


@pytest.fixture
def bundle(cache: Blobs, tmp_path: Path) -> Path:
    """Two links into the cache, a copy of one, and a small file."""
    place = tmp_path / "bundle"
    place.mkdir()
    for name, data in {"large": DATA, "other": DATA[::-1], "small": b"x"}.items():
        made = tmp_path / name
        made.write_bytes(data)
        cache.link(cache.keep(made)[0], place / name)
    (place / "copy").write_bytes(DATA)
    return place


def build(
    cache: Blobs,
    bundle: Path,
    now: datetime = NOW,
    chunk_size: int = sign.CHUNK_SIZE,
    lock: dict[str, str] | None = None,
) -> list[str]:
    """Digest a bundle as a build does; what was not read."""
    memory = known.load(cache, now)
    lock = LOCK if lock is None else lock
    find = lambda path, n: memory.find(path, n, lock.get(path.name, ""))  # noqa: E731
    digests = sign.digests_of(bundle, [p.name for p in bundle.iterdir()], chunk_size, find)
    memory.keep(bundle, digests)
    assert {p: d.sha256 for p, d in digests.items()} == {p.name: hash_file(p)[0] for p in bundle.iterdir()}
    return sorted(Path(p).name for p in memory.reused)


def test_only_large_files_that_the_cache_shares_are_not_read_again(cache: Blobs, bundle: Path) -> None:
    assert build(cache, bundle) == []
    assert build(cache, bundle) == ["large", "other"]


def test_what_was_written_since_is_read(cache: Blobs, bundle: Path) -> None:
    build(cache, bundle)
    (bundle / "large").chmod(0o644)
    before = (bundle / "large").stat().st_mtime_ns
    while (bundle / "large").stat().st_mtime_ns == before:  # the kernel's clock for files moves in steps
        (bundle / "large").write_bytes(DATA[1:] + b"!")
    (bundle / "large").chmod(0o444)
    assert build(cache, bundle) == ["other"]


def test_what_somebody_may_write_is_read(cache: Blobs, bundle: Path) -> None:
    build(cache, bundle)
    (bundle / "large").chmod(0o644)
    assert build(cache, bundle) == ["other"]


def test_after_a_week_it_is_read_again_however_often_it_was_used_meanwhile(cache: Blobs, bundle: Path) -> None:
    build(cache, bundle)
    for day in range(1, 7):
        assert build(cache, bundle, NOW + timedelta(days=day)) == ["large", "other"]
    assert build(cache, bundle, NOW + timedelta(days=7, seconds=1)) == []
    assert build(cache, bundle, NOW) == []  # a clock that went back knows nothing


def test_pieces_of_another_size_are_made_anew(cache: Blobs, bundle: Path) -> None:
    build(cache, bundle)
    assert build(cache, bundle, chunk_size=known.SMALLEST // 4) == []
    assert build(cache, bundle, chunk_size=known.SMALLEST // 4) == ["large", "other"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"1:2": 3}', b'{"1:2": ["a", 1, "x", 2, 3]}', b"\xff" * 9])
def test_a_damaged_record_counts_as_none(cache: Blobs, bundle: Path, damage: bytes) -> None:
    build(cache, bundle)
    (cache.root / known.FILE).write_bytes(damage)
    assert build(cache, bundle) == []
    assert build(cache, bundle) == ["large", "other"]


def test_the_record_never_says_what_is_signed(cache: Blobs, bundle: Path) -> None:
    """Who can write it would else get a signature over a hash of their own, for what no lock names or names otherwise."""
    build(cache, bundle)
    assert build(cache, bundle, lock={"large": LOCK["large"]}) == ["large"]
    assert build(cache, bundle, lock={"large": LOCK["other"], "other": LOCK["large"]}) == []
