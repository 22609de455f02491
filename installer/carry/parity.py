"""Parity volumes: with M of them, any M lost or unreadable volumes of a set can be made again from the others.

The data of a volume is read as one stream, its items one after the other in the order of the index, filled up with zeros to
the longest. Reed-Solomon code (zfec) runs over blocks at the same place of every stream. Parity is not signed and need not
be: what is made from it is compared with the signed hashes like everything else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from engine import durable, metadata, tree
from engine.errors import InputError, ResourceError, TrustError
from engine.report import Report, Silent
from engine.trust import Trusted
from installer import medium
from installer.carry import volumes
from installer.carry.streams import BLOCK, FILE, Entry, Unpacker, Writer
from installer.carry.volumes import Split

DIRECTORY = "parity"
MAX_VOLUMES = 256  # of data and parity together; the code's field has no more places


def name(split: Split, number: int, total: int) -> str:
    """Directory of parity volume ``number`` of ``total``."""
    return f"{split.release}.parity-{number}-of-{total}"


def write(
    split: Split, trusted: Trusted, places: Sequence[Path], now: datetime, report: Report | None = None
) -> list[Path]:
    """Write one parity volume into each of ``places``, from the data volumes, which must all be there.

    Raises:
        ResourceError: zfec is not installed, or a place is too small.
        TrustError: a volume is not as signed.
    """
    report = report or Silent()
    entries = [entries_of([i.path for i in v.items], trusted) for v in split.volumes]
    length = max(sum(e.size for e in v) for v in entries)
    outs = [place / name(split, n, len(places)) for n, place in enumerate(places, 1)]
    stagings = [out.with_name(f".{out.name}.writing") for out in outs]
    for place in set(places):
        here = [n for n, other in enumerate(places) if other == place]
        free = shutil.disk_usage(place).free + medium.leftovers(*(p for n in here for p in (outs[n], stagings[n])))
        if free < (need := len(here) * (length + volumes.RESERVE)):
            raise ResourceError(
                f"parity needs {need:,} bytes, {need - free:,} more than are free",
                where=str(place),
                remedy="Use a medium as large as the others.",
            )
    with durable.disk_errors(places[0]):
        try:
            _encode(split, trusted, entries, length, outs, stagings, now, report)
        except BaseException:
            for staging in stagings:
                shutil.rmtree(staging, ignore_errors=True)
            raise
    return outs


def _encode(
    split: Split,
    trusted: Trusted,
    entries: Sequence[Sequence[Entry]],
    length: int,
    outs: Sequence[Path],
    stagings: Sequence[Path],
    now: datetime,
    report: Report,
) -> None:
    k, places = len(entries), outs
    encoder = _zfec().Encoder(k, k + len(places))
    report.begin("parity", length)
    writers = []
    for staging, out in zip(stagings, outs, strict=True):
        shutil.rmtree(staging, ignore_errors=True)
        if shutil.disk_usage(out.parent).free < length + volumes.RESERVE:
            shutil.rmtree(out, ignore_errors=True)  # no room for both; this one is about to be written again
        writers.append(Writer(staging / DIRECTORY))
    streams = [_blocks(volume, e, length) for volume, e in zip(split.media, entries, strict=True)]
    for blocks in zip(*streams, strict=True):
        coded = encoder.encode(list(blocks), list(range(k, k + len(places))))
        for writer, block in zip(writers, coded, strict=True):
            writer.write(block)
        report.advance("parity", BLOCK)
    for n, (staging, out, writer) in enumerate(zip(stagings, outs, writers, strict=True)):
        index = {
            "release": split.release, "number": k + n + 1, "parity": len(places), "length": length, "sha256": writer.close(),
            "volumes": [{"paths": [i.path for i in v.items], "size": v.size} for v in split.volumes],
        }  # fmt: skip
        metadata.write(staging, trusted.metadata)
        durable.write(staging / volumes.INDEX, json.dumps(index, indent=1) + "\n")
        durable.write(staging / volumes.LABEL, _label(split, n + 1, len(places), length, now))
        shutil.rmtree(out, ignore_errors=True)
        staging.rename(out)
        durable.sync_dir(out.parent)
    report.end("parity")


def recover(media: Sequence[Path], trusted: Trusted, out: Path, report: Report | None = None) -> list[Path]:
    """Make the data volumes that are not among ``media`` again, below ``out``.

    Args:
        media: data and parity volumes that can be read, any of them.

    Raises:
        InputError: one is no volume, too few of them, or they are not of one set.
        TrustError: what came out is not as signed: one of the volumes is damaged.
        ResourceError: zfec is not installed, or ``out`` cannot hold them.
    """
    report = report or Silent()
    for given in media:
        if not volumes.is_volume(given):
            raise InputError(
                "not a volume of a split bundle",
                where=str(given),
                remedy="Name the directories that `appliance split` wrote, data and parity.",
            )
    indexes = {i.number: (m, i) for m, i in ((m, volumes.read_index(m)) for m in media)}
    lists = next(iter(indexes.values()))[1].volumes
    k = len(lists)
    if any(i.volumes != lists for _, i in indexes.values()):
        raise InputError("these volumes are not of one set", remedy="Name volumes that were split together.")
    parity = [i for _, i in indexes.values() if i.parity and i.number > k]
    missing = [n for n in range(1, k + 1) if n not in indexes]
    if not missing:
        return []
    if len(indexes) < k or not parity:
        raise InputError(
            f"{len(indexes)} volumes are here, {k} of data or parity are needed",
            remedy="Find more of the set, or write the missing ones again with `appliance split --only`.",
        )
    total, length = k + parity[0].parity, parity[0].length
    if (
        max(indexes) > total
        or total > MAX_VOLUMES
        or any((i.parity, i.length) != (parity[0].parity, length) for i in parity)
    ):
        raise InputError("these volumes are not of one set", remedy="Name volumes that were split together.")
    entries = [entries_of(paths, trusted) for paths in lists]
    used = sorted(indexes, key=lambda n: (n > k, n))[:k]
    streams = [
        _blocks(indexes[n][0], entries[n - 1], length) if n <= k else _parity_blocks(indexes[n][0], length)
        for n in used
    ]
    # zfec wants each data block at the place of its own number; parity takes the places that are free.
    order = _places(used, k)
    decoder = _zfec().Decoder(k, total)
    stagings = {n: out / f".{trusted.release}.{n}-of-{k}.writing" for n in missing}
    with durable.disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        writers = {n: Unpacker(stagings[n], entries[n - 1]) for n in missing}
        _require(medium.ask(out), [entries[n - 1] for n in missing])
        report.begin("recover", length)
        try:
            for blocks in zip(*streams, strict=True):
                whole = decoder.decode([blocks[i] for i in order], [used[i] - 1 for i in order])
                for n in missing:
                    writers[n].write(whole[n - 1])
                report.advance("recover", BLOCK)
            return [_finish(writers[n], stagings[n], n, trusted, lists) for n in missing]
        except BaseException:
            for staging in stagings.values():
                shutil.rmtree(staging, ignore_errors=True)
            raise


def _require(place: medium.Medium, volumes_: Sequence[Sequence[Entry]]) -> None:
    for entries in volumes_:
        place.require(
            {e.path: e.size for e in entries}, remedy="Recover to another disk; the lost medium held such files."
        )
    need = sum(place.occupied({e.path: e.size for e in entries}) + volumes.RESERVE for entries in volumes_)
    place.require_room(need, remedy="Free space there, or name another place with --out.")


def entries_of(paths: Sequence[str], trusted: Trusted) -> list[Entry]:
    """A volume's items with what is signed of each.

    Raises:
        TrustError: an item is not in the metadata.
    """
    known, out = volumes.pieces(trusted), []
    for path in paths:
        if path in known:
            target, n = known[path]
            out.append(Entry(path, min(target.chunk_size, target.size - n * target.chunk_size), target.chunks[n]))
        elif path in trusted.targets:
            out.append(Entry(path, trusted.targets[path].size, trusted.targets[path].sha256))
        else:
            raise TrustError(
                "the volume's index names what nobody signed", where=path, remedy="Use another volume of the set."
            )
    return out


def _places(used: Sequence[int], k: int) -> list[int]:
    """For each of the k places the position in ``used`` of the block that goes there."""
    at = {n: i for i, n in enumerate(used)}
    spare = iter([i for i, n in enumerate(used) if n > k])
    return [at[n] if n in at else next(spare) for n in range(1, k + 1)]


def _blocks(volume: Path, entries: Sequence[Entry], length: int) -> Iterator[bytes]:
    """A volume's stream in blocks, checked against the signed hashes on the way, filled up with zeros."""
    kept, done = bytearray(), 0
    for entry in entries:
        digest, left = hashlib.sha256(), entry.size
        with _open(volume, entry.path) as file:
            while left and (data := file.read(min(BLOCK, left))):
                digest.update(data)
                left -= len(data)
                kept += data
                while len(kept) >= BLOCK:
                    yield bytes(kept[:BLOCK])
                    del kept[:BLOCK]
                    done += BLOCK
        if left or digest.hexdigest() != entry.sha256:
            raise TrustError("the volume is damaged", where=str(volume / entry.path), remedy="Leave this volume out.")
    while done < length:
        yield bytes(kept) + bytes(BLOCK - len(kept))
        kept.clear()
        done += BLOCK


def _parity_blocks(volume: Path, length: int) -> Iterator[bytes]:
    digest, index = hashlib.sha256(), volumes.read_index(volume)
    for start in range(0, length, BLOCK):
        place, offset = divmod(start, FILE)
        with _open(volume, f"{DIRECTORY}/{place:05}") as source:
            source.seek(offset)
            block: bytes = source.read(BLOCK)
        digest.update(block)
        if len(block) != BLOCK or (start + BLOCK >= length and digest.hexdigest() != index.sha256):
            raise TrustError("the parity volume is damaged", where=str(volume), remedy="Leave this volume out.")
        yield block


def _open(volume: Path, path: str) -> BinaryIO:
    try:
        return tree.open_beneath(volume, path)
    except FileNotFoundError as error:
        raise TrustError(
            "the volume lacks a file", where=str(volume / path), remedy="Leave this volume out."
        ) from error


def _finish(
    unpacker: Unpacker, staging: Path, number: int, trusted: Trusted, lists: tuple[tuple[str, ...], ...]
) -> Path:
    if not unpacker.complete:
        raise TrustError("parity ends too early", where=str(staging), remedy="Use another parity volume.")
    out = staging.with_name(f"{trusted.release}.{number}-of-{len(lists)}")
    metadata.write(staging, trusted.metadata)
    kept = {"release": trusted.release, "number": number, "volumes": [{"paths": list(paths)} for paths in lists]}
    durable.write(staging / volumes.INDEX, json.dumps(kept, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    staging.rename(out)
    durable.sync_dir(out.parent)
    return out


def _label(split: Split, number: int, total: int, length: int, now: datetime) -> str:
    return f"""{split.release}
PARITY {number} OF {total}   (for a set of {len(split.volumes)} volumes)
{"=" * 60}
bytes   {length:,}
written {now:%Y-%m-%d %H:%M} UTC

Needed only when a volume of the set is lost or damaged:
  appliance recover VOLUME… --out DIRECTORY
"""


def _zfec() -> Any:  # a module without types
    try:
        import zfec  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ResourceError(
            "zfec is not installed", remedy="Install the extra: pip install appliance[parity]."
        ) from error
    return zfec
