"""Volumes: one bundle on several media.

A volume holds all metadata, whole files at their places, and pieces of large files, each checkable alone against the
signed hashes:

    NAME-VERSION.2-of-5/
      LABEL.txt       for the medium's label and the custody sheet
      volume.json     what lies on which volume; a help for people and messages, never trusted
      metadata/ content/… pieces/SHA256/00007
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine import durable, metadata, strictjson, tree
from engine.blobs import hash_stream
from engine.copying import copy_piece, copy_target
from engine.errors import InputError, ResourceError, TrustError
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from engine.verify import Finding
from installer import medium
from installer.carry.compare import lacking
from installer.carry.label import MAX_LABEL, is_label, label
from installer.carry.patchnames import KIND
from installer.carry.plan import BLOCK, Item, Volume, plan

INDEX, LABEL = "volume.json", "LABEL.txt"
MAX_INDEX = 32 << 20  # bytes
MAX_PARITY = 64  # volumes
RESERVE = 1 << 20  # bytes a volume keeps for its label, its index and directories
WORKERS = 4


@dataclass(frozen=True)
class Split:
    """The volumes of one bundle. ``media`` is where each lies, in order; ``not_here`` counts the contents that a delta
    leaves to the depot.
    """

    release: str
    volumes: tuple[Volume, ...]
    media: tuple[Path, ...]
    not_here: int = 0


def layout(
    bundle: Path, trusted: Trusted, *, size: int = 0, media: tuple[Path, ...] = (), out: Path | None = None
) -> Split:
    """Plan the volumes.

    Args:
        size: bytes of each of as many media as it takes, written below ``out``; or
        media: mounted media, whose free space is used.

    Raises:
        InputError: it does not fit.
        ResourceError: a file system does not take a file, however it is cut.
    """
    listed = lacking(trusted, ())
    contents = [t for t in listed if (bundle / t.path).is_file()]
    asked = [medium.ask(place) for place in media or (out or Path(),)]
    block = max(BLOCK, *(m.block for m in asked))
    directories = {p.parent for t in contents for p in (Path(t.path), Path("pieces") / t.sha256 / "00000")}
    listed_metadata = [len(data) for data in trusted.metadata.values()]
    # Directories take a block each; on media with small ones that is what the reserve is for.
    overhead = RESERVE + sum(listed_metadata) + (block > BLOCK) * block * (len(listed_metadata) + len(directories))
    # What a directory made here is copied to is not known: to FAT32 it must be possible.
    limits = [m.cut_above for m in asked] if media else [medium.FAT_LONGEST, asked[0].longest]
    cut_above = min((n for n in limits if n is not None), default=None)
    sizes = [m.free - overhead for m in asked]
    earlier = [_earlier(place, trusted.release) for place in media]

    def fit(capacities: list[int]) -> tuple[list[Volume], tuple[Path, ...]]:
        made = plan(contents, capacities, repeat=not media, block=block, cut_above=cut_above)
        largest_first = sorted(range(len(capacities)), key=lambda n: -capacities[n])
        places = [media[n] for n in largest_first[: len(made)]] if media else [out or Path()] * len(made)
        return made, tuple(place / f"{trusted.release}.{n}-of-{len(made)}" for n, place in enumerate(places, 1))

    if media:
        # What an earlier run left is written over, so its room counts; unless the media are others now, then it stays.
        volumes, paths = fit([n + medium.leftovers(*old) for n, old in zip(sizes, earlier, strict=True)])
        if not {p.with_name(_final(p.name)) for old in earlier for p in old} <= set(paths):
            volumes, paths = fit(sizes)
    else:
        volumes, paths = fit([size - overhead])
    for path, volume in zip(paths, volumes, strict=True):
        next(m for m, place in zip(asked, media or (out or Path(),), strict=True) if place == path.parent).require(
            {i.path: i.size for i in volume.items},
            remedy="They cannot be cut, for no hashes of their pieces are signed; use a medium with another file system: "
            "exFAT takes files of any length.",
        )
    here = {t.sha256 for t in contents} | {Path(t.path).stem for t in contents if t.kind == KIND}
    return Split(trusted.release, tuple(volumes), paths, sum(t.sha256 not in here for t in listed))


def _earlier(place: Path, release: str) -> list[Path]:
    """Volumes of this release that lie at a place, whole or half written."""
    mine = re.compile(rf"{re.escape(release)}\.[0-9]+-of-[0-9]+")
    return [p for p in place.iterdir() if mine.fullmatch(_final(p.name))] if place.is_dir() else []


def _final(name: str) -> str:
    """The name that a half-written volume would have got; every other name as it is."""
    return re.sub(r"^\.(.*)\.(writing|old)$", r"\1", name)


def _hidden(out: Path, ending: str) -> Path:
    return out.with_name(f".{out.name}.{ending}")


def write(
    bundle: Path, trusted: Trusted, split: Split, number: int, now: datetime, report: Report | None = None
) -> Path:
    """Write volume ``number`` (from 1); its directory appears when it is whole, in place of an earlier one.

    Args:
        trusted: the verified metadata of ``bundle``, which every volume carries.

    Raises:
        InputError: there is no such volume.
        TrustError: a file of the bundle is not as signed.
        ResourceError: the medium is full.
    """
    report = report or Silent()
    require_room(split, number)
    volume, out = split.volumes[number - 1], split.media[number - 1]
    staging, old = _hidden(out, "writing"), _hidden(out, "old")
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if shutil.disk_usage(out.parent).free < _need(volume):
        shutil.rmtree(out, ignore_errors=True)  # no room for both; this one is about to be written again
    task = f"volume {number} of {len(split.volumes)}"
    report.begin(task, volume.size)

    def one(item: Item) -> None:
        to = staging / item.path
        if item.piece is None:
            copy_target(bundle, item.target, to, lambda n: report.advance(task, n))
        else:
            copy_piece(bundle, item.target, item.piece, to, lambda n: report.advance(task, n))

    with durable.disk_errors(out):
        try:
            with ThreadPoolExecutor(WORKERS) as workers:
                list(workers.map(one, volume.items))
            metadata.write(staging, trusted.metadata)
            durable.write(staging / INDEX, json.dumps(_index(split, number), indent=1) + "\n")
            durable.write(
                staging / LABEL,
                label(split.release, number, len(split.volumes), volume, out.name, now, delta=bool(split.not_here)),
            )
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if out.exists():
            out.rename(old)
        staging.rename(out)
        durable.sync_dir(out.parent)
    shutil.rmtree(old, ignore_errors=True)
    report.end(task)
    return out


def _index(split: Split, number: int) -> dict[str, Any]:
    return {
        "release": split.release,
        "number": number,
        "volumes": [{"paths": [i.path for i in v.items], "size": v.size} for v in split.volumes],
    }


def is_volume(path: Path) -> bool:
    """Whether this directory is one volume of a bundle."""
    return (path / INDEX).is_file() and not (path / INDEX).is_symlink()


@dataclass(frozen=True)
class Index:
    """What a volume says of itself and its siblings; nobody signed it.

    Attributes:
        number: of this volume, from 1; those of parity follow those of data.
        volumes: the paths on each data volume.
        parity: how many parity volumes the set has; 0 on a data volume.
        length: bytes of this parity volume's stream, whose SHA-256 is ``sha256``.
    """

    number: int
    volumes: tuple[tuple[str, ...], ...]
    parity: int = 0
    length: int = 0
    sha256: str = ""


def read_index(volume: Path) -> Index:
    """The volume's own words, with every length bounded.

    Raises:
        TrustError: they are malformed.
    """
    try:
        with tree.open_beneath(volume, INDEX) as file:
            raw: bytes = file.read(MAX_INDEX + 1)
        data = strictjson.loads(raw) if len(raw) <= MAX_INDEX else None
        listed = tuple(tuple(map(str, v["paths"])) for v in data["volumes"])  # type: ignore[index]
        numbers = [int(data.get(key, 0)) for key in ("number", "parity", "length")]  # type: ignore[union-attr]
        if not (listed and 0 < numbers[0] < 1 << 16 and 0 <= numbers[1] <= MAX_PARITY and 0 <= numbers[2] < 1 << 50):
            raise ValueError("a number in it is not possible")
        return Index(numbers[0], listed, numbers[1], numbers[2], str(data.get("sha256", "")))  # type: ignore[union-attr]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError(
            f"the volume's index is damaged: {error}",
            where=str(volume / INDEX),
            remedy="Write this volume again with `appliance split --only`.",
        ) from error


def pieces(trusted: Trusted) -> dict[str, tuple[Target, int]]:
    """Every piece that may lie on a volume, by its path."""
    return {f"pieces/{t.sha256}/{n:05}": (t, n) for t in trusted.targets.values() for n in range(len(t.chunks))}


def check(
    volume: Path,
    trusted: Trusted,
    made: Collection[str] = (),
    report: Report | None = None,
    index: Index | None = None,
) -> list[Finding]:
    """Every difference between a volume and what is signed; metadata/ is not looked at.

    Nobody signed the index. It may say that another volume carries a file, so that the file is not missed here; it cannot say that the
    release has no such file: what is on no volume is missing.

    Args:
        trusted: the release, and the patches that a delta carries in place of files.
        made: SHA-256 of what need not be on any volume: what patches make, what a depot has.
        index: what the volume says of itself, where it was read already.

    Raises:
        TrustError: the index is damaged.
    """
    index = index or read_index(volume)
    report = report or Silent()
    known = pieces(trusted)
    mine = set(index.volumes[index.number - 1]) if 0 < index.number <= len(index.volumes) else set()
    findings: list[Finding] = []
    present = {}
    for entry in tree.walk(volume):
        if not entry.path.startswith(f"{metadata.DIRECTORY}/") and entry.path not in (INDEX, LABEL):
            present[entry.path] = entry
    report.begin("verify", sum(e.size for e in present.values()))
    for path, entry in sorted(present.items()):
        if path in known:
            target, number = known[path]
            signed, size = target.chunks[number], min(target.chunk_size, target.size - number * target.chunk_size)
        elif path in trusted.targets:
            signed, size = trusted.targets[path].sha256, trusted.targets[path].size
        else:
            findings.append(Finding("extra", path, "no signature covers it"))
            continue
        if entry.kind != "file":
            findings.append(Finding("link", path, "only plain files are allowed"))
            continue
        if entry.size != size:
            findings.append(Finding("changed", path, f"{entry.size} bytes, signed {size}"))
            continue
        with tree.open_beneath(volume, path) as file:
            sha256, _ = hash_stream(file, lambda n: report.advance("verify", n))
        if sha256 != signed:
            findings.append(Finding("changed", path, f"SHA-256 is {sha256}, signed {signed}"))
    findings.extend(Finding("missing", path) for path in sorted(mine - set(present)))
    if not present:
        findings.append(Finding("missing", "content", "no file of the release is on this volume"))
    carried = _carried(index, known, trusted)
    findings.extend(
        Finding("missing", path, "on no volume of the set")
        for path, t in sorted(trusted.targets.items())
        if t.kind != KIND and t.sha256 not in carried and t.sha256 not in made
    )
    findings.extend(_labelled(volume, index, trusted, known))
    report.end("verify")
    return findings


def _carried(index: Index, known: Mapping[str, tuple[Target, int]], trusted: Trusted) -> set[str]:
    """SHA-256 of the contents that are on the volumes of a set, whole or in all their pieces, by its index."""
    listed = {path for volume in index.volumes for path in volume}
    whole = {trusted.targets[p].sha256 for p in listed if p in trusted.targets}
    numbers: dict[str, set[int]] = {}
    for path in listed & known.keys():
        target, number = known[path]
        numbers.setdefault(target.sha256, set()).add(number)
    cut = {t.sha256 for t in trusted.targets.values() if t.chunks and len(numbers.get(t.sha256, ())) == len(t.chunks)}
    return whole | cut


def _labelled(volume: Path, index: Index, trusted: Trusted, known: Mapping[str, tuple[Target, int]]) -> list[Finding]:
    """The label, where there is one, says of this volume what `split` writes and nothing else."""
    if not 0 < index.number <= len(index.volumes):
        return []
    try:
        with tree.open_beneath(volume, LABEL) as file:
            found = file.read(MAX_LABEL + 1).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except TrustError as error:
        return [Finding("unsigned", LABEL, error.what)]
    size = 0
    for path in index.volumes[index.number - 1]:
        if path in known:
            target, number = known[path]
            size += min(target.chunk_size, target.size - number * target.chunk_size)
        elif path in trusted.targets:
            size += trusted.targets[path].size
    files = len(index.volumes[index.number - 1])
    if is_label(found, trusted.release, index.number, len(index.volumes), files, size):
        return []
    return [Finding("unsigned", LABEL, "not what `appliance split` writes for this volume; do not type what it says")]


def require_room(split: Split, *numbers: int) -> None:
    """Refuse before the first byte when a medium is too small by now for these volumes together.

    Raises:
        InputError: there is no such volume.
        ResourceError: with what is missing.
    """
    places: dict[Path, list[int]] = {}
    for number in numbers:
        if not 1 <= number <= len(split.volumes):
            raise InputError(f"there is no volume {number} of {len(split.volumes)}", remedy="Name one of these.")
        places.setdefault(split.media[number - 1].parent, []).append(number)
    for place, here in places.items():
        with durable.disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            outs = [split.media[n - 1] for n in here]
            written_over = medium.leftovers(*outs, *(_hidden(o, e) for o in outs for e in ("writing", "old")))
            free = shutil.disk_usage(place).free + written_over
        need = sum(_need(split.volumes[n - 1]) for n in here)
        if free < need:
            raise ResourceError(
                f"{need - free:,} bytes too few are free", where=str(place), remedy="Free space there, or use --size."
            )


def _need(volume: Volume) -> int:
    return sum(i.occupied for i in volume.items) + RESERVE
