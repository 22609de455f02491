"""Take volumes into the depot, one at a time, in any order; the release appears with the last of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import durable, metadata, tree
from engine.blobs import CHUNK
from engine.durable import disk_errors
from engine.errors import InputError, TrustError
from engine.memory import ANY, Demand
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from installer.carry import patches, rebuild, sources, volumes
from installer.carry.patches import Patch
from installer.depot import Depot

WRITE_AGAIN = "Write this volume again on the builder with `appliance split --only`, and take it in again."


@dataclass(frozen=True)
class Taken:
    """What one volume brought. Sizes in bytes; ``waiting`` are the numbers of volumes that still lack something."""

    trusted: Trusted
    view: Path | None
    copied: int
    missing: int
    missing_size: int
    waiting: tuple[int, ...]


def take_in(
    depot: Depot, volume: Path, *, root_json: Path | None = None, demand: Demand = ANY, report: Report | None = None
) -> Taken:
    """Verify a volume and keep what it holds. Safe to kill and to repeat; nothing is deleted before the release is whole.

    Raises:
        TrustError: the volume's metadata or one of its files was refused; the rest of it stays for the next attempt.
        ResourceError: too little space, or another command changes the depot.
    """
    report = report or Silent()
    with disk_errors(depot.root):
        asked = depot.medium()
        depot.root.mkdir(parents=True, exist_ok=True, mode=0o755)
        with depot.exclusive():
            trusted = depot.open(volume, root_json, demand)
            depot.require_holds(asked, trusted)
            index = volumes.read_index(volume)
            if (volume / "parity").is_dir():
                raise InputError(
                    "a parity volume holds nothing to take in",
                    where=str(volume),
                    remedy="Use it with `appliance recover` when another volume is lost.",
                )
            listed = patches.read(trusted)
            copied = _Taking(depot, volume, trusted, listed, index.number, report).run()
            store = depot.blobs.root / "pieces"
            for target in trusted.targets.values():
                if not depot.blobs.has(target.sha256, target.size):
                    _assemble(depot, store / target.sha256, target)
            while usable := rebuild.ready(depot.blobs, listed):  # what one made, another may be made of
                depot.require_space(sum(p.target_size for p in usable))
                for patch in usable:
                    rebuild.rebuild(depot.blobs, patch, report)
            missing = {t.sha256: t for t in trusted.targets.values() if not depot.blobs.has(t.sha256, t.size)}
            view = None
            if not missing:
                view = depot.show(trusted)
                rebuild.clear(depot.blobs)
                for target in trusted.targets.values():
                    shutil.rmtree(store / target.sha256, ignore_errors=True)
            waiting = _waiting(depot, index, trusted, listed, missing)
            baseless = [p for p in listed if p.target in missing and not depot.blobs.has(p.base, p.base_size)]
            if baseless and not waiting:
                sources.refuse_lacking(volume, [missing[p.target] for p in baseless], baseless, depot.blobs)
            return Taken(trusted, view, copied, len(missing), sum(t.size for t in missing.values()), waiting)


class _Taking:
    """One volume on its way in."""

    def __init__(
        self, depot: Depot, volume: Path, trusted: Trusted, listed: Sequence[Patch], number: int, report: Report
    ) -> None:
        self._depot, self._volume, self._number, self._report = depot, volume, number, report
        self._pieces = volumes.pieces(trusted)
        self._patches = {p.path: p for p in listed}
        self._trusted = patches.extended(trusted, listed)

    def run(self) -> int:
        wanted = []
        for entry in tree.walk(self._volume):
            if entry.path.startswith(f"{metadata.DIRECTORY}/") or entry.path in (volumes.INDEX, volumes.LABEL):
                continue
            if entry.kind != "file" or not (entry.path in self._trusted.targets or entry.path in self._pieces):
                raise TrustError(
                    f"no signature covers {entry.path}", where=str(self._volume), remedy="Do not use this medium."
                )
            if not self._have(entry.path):
                wanted.append(entry)
        self._depot.require_space(sum(e.size for e in wanted))
        self._report.begin(f"volume {self._number}", sum(e.size for e in wanted))
        for entry in wanted:
            self._copy(entry.path)
        self._report.end(f"volume {self._number}")
        return sum(e.size for e in wanted)

    def _have(self, path: str) -> bool:
        if patch := self._patches.get(path):
            blobs = rebuild.store(self._depot.blobs)
            return self._depot.blobs.has(patch.target, patch.target_size) or blobs.has(patch.sha256, patch.size)
        target = self._trusted.targets[path] if path in self._trusted.targets else self._pieces[path][0]
        return self._depot.blobs.has(target.sha256, target.size) or (
            path in self._pieces and (self._depot.blobs.root / path).exists()
        )

    def _copy(self, path: str) -> None:
        try:
            if path in self._patches:
                rebuild.bring(
                    self._depot.blobs, self._volume, self._patches[path], self._report, f"volume {self._number}"
                )
            elif path in self._pieces:
                self._piece(path, *self._pieces[path])
            else:
                self._whole(self._trusted.targets[path])
        except TrustError as error:
            raise TrustError(
                f"volume {self._number} is damaged: {error.what}", where=path, remedy=WRITE_AGAIN
            ) from error

    def _whole(self, target: Target) -> None:
        with (
            self._depot.blobs.incoming(target.sha256, target.size) as incoming,
            tree.open_beneath(self._volume, target.path) as source,
        ):
            source.seek(incoming.done)
            while not incoming.complete and (chunk := source.read(CHUNK)):
                incoming.write(chunk)
                self._report.advance(f"volume {self._number}", len(chunk))

    def _piece(self, path: str, target: Target, number: int) -> None:
        """A piece gets its name when its hash is right, like every content."""
        final = self._depot.blobs.root / path
        temporary = final.with_name(f".{final.name}.part")
        size = min(target.chunk_size, target.size - number * target.chunk_size)
        digest, done = hashlib.sha256(), 0
        final.parent.mkdir(parents=True, exist_ok=True)
        with tree.open_beneath(self._volume, path) as source, temporary.open("wb") as copy:
            while done <= size and (chunk := source.read(CHUNK)):
                digest.update(chunk)
                copy.write(chunk)
                done += len(chunk)
                self._report.advance(f"volume {self._number}", len(chunk))
            durable.sync_file(copy)
        if done != size or digest.hexdigest() != target.chunks[number]:
            temporary.unlink()
            raise TrustError(f"piece {number} of {target.path} is not as signed")
        temporary.replace(final)
        durable.sync_dir(final.parent)


def _assemble(depot: Depot, place: Path, target: Target) -> None:
    """Put a large file together once all its pieces are here; the whole is hashed once more."""
    paths = [place / f"{n:05}" for n in range(len(target.chunks))]
    if not paths or not all(p.exists() for p in paths):
        return
    with depot.blobs.incoming(target.sha256, target.size) as incoming:
        if incoming.complete:
            return
        incoming.restart()
        for path in paths:
            with path.open("rb") as piece:
                while chunk := piece.read(CHUNK):
                    incoming.write(chunk)


def _waiting(
    depot: Depot, index: volumes.Index, trusted: Trusted, listed: Sequence[Patch], missing: dict[str, Target]
) -> tuple[int, ...]:
    """Volumes that carry something still lacking, as this volume's index says."""
    known, made = volumes.pieces(trusted), {p.path: p for p in listed}
    store, kept = depot.blobs.root / "pieces", rebuild.store(depot.blobs)

    def lacks(path: str) -> bool:
        if path in known:
            target, number = known[path]
            return target.sha256 in missing and not (store / target.sha256 / f"{number:05}").exists()
        if patch := made.get(path):
            return patch.target in missing and not kept.has(patch.sha256, patch.size)
        return path in trusted.targets and trusted.targets[path].sha256 in missing

    return tuple(n + 1 for n, paths in enumerate(index.volumes) if any(map(lacks, paths)))
