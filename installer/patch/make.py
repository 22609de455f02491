"""Make a patch: what is in the base is copied from there, the rest refers to what looks like it.

Works on any file. Where a file is a squashfs image, its blocks are zstd frames: those of unchanged content are the same
bytes in both images; the others are carried unpacked, as a difference to the base's unpacked blocks, and packed again on
arrival. A block that this machine's libzstd does not make again exactly is carried as it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from engine import durable
from engine.errors import TrustError
from installer.patch import zstd
from installer.patch.apply import apply
from installer.patch.frames import Segment, mapped, segments
from installer.patch.index import Index, Part, Stage, dump, load
from installer.patch.similar import Similar

RAW, REFERENCE = 8 << 20, 24 << 20  # bytes of a stage
LEVEL = 9  # of payloads; 3 is three times as fast and makes them a twentieth longer, 16 takes minutes and saves a tenth
CODEC = "frames"
LEVELS = (3, *(n for n in range(1, 23) if n != 3))  # ours first; 15 is mksquashfs's own default
TRIED = 4  # frames that tell the level
PROBE, HOPELESS = 256 << 20, 0.8  # bytes of the target, and a payload's share of it from which on it is given up
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class File:
    """A file with its signed hash; ``size`` in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass
class Draft:
    """A stage on its way: unpacked bytes and what becomes of them."""

    raws: list[bytes] = field(default_factory=list)
    parts: list[tuple[int, int, int]] = field(default_factory=list)
    raw: int = 0

    def copy(self, offset: int, length: int) -> None:
        last = self.parts[-1] if self.parts else (-1, 0, 0)
        if last[0] == Part.COPY and last[1] + last[2] == offset:
            self.parts[-1] = (Part.COPY, last[1], last[2] + length)
        else:
            self.parts.append((Part.COPY, offset, length))

    def put(self, raw: bytes, kind: Part = Part.PLAIN, length: int = 0) -> None:
        self.raws.append(raw)
        self.raw += len(raw)
        self.parts.append((kind, len(raw), len(raw) if kind == Part.PLAIN else length))


def may_pack_again(libzstd: str) -> bool:
    """Whether a receiver with that version makes the same blocks as this machine; empty means one like this."""
    return libzstd in ("", zstd.version())


def make(base: File, target: File, out: Path, *, limit: int, pack_again: bool = True) -> int:
    """Write the patch to ``out`` and try it; its size in bytes, or 0 when it would be longer than ``limit``.

    Args:
        pack_again: False when the receiver has another libzstd.

    Raises:
        TrustError: a file is not what its hash says.
    """
    with mapped(base.path) as old, mapped(target.path) as new:
        require_signed(old, base)
        wanted = list(segments(new))
        known, rest = _known(old, {s.digest for s in wanted})
        changed = reference(old, rest)
        level = _level(new, [s for s in wanted if s.raw]) if pack_again else 0
        drafts = _drafts(new, wanted, known, level)
        stages = ahead(lambda draft: stage(draft, changed), drafts)
        index = Index(CODEC, base.sha256, base.size, target.sha256, target.size, zstd.version(), level, ())
        return write(index, stages, base.path, out, limit)


def require_signed(data: memoryview, file: File) -> None:
    """A patch of a damaged base would fit no receiver.

    Raises:
        TrustError: the bytes are not those of the hash.
    """
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise TrustError(
            "the file is not as signed", where=str(file.path), remedy="`appliance verify` checks that bundle."
        )


def ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results in order, a few of them made ahead on all cores."""
    cores = os.cpu_count() or 1
    waiting = deque[Future[R]]()
    with ThreadPoolExecutor(cores) as workers:
        for item in items:
            waiting.append(workers.submit(work, item))
            if len(waiting) > cores + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write(index: Index, stages: Iterable[tuple[Stage, bytes]], base: Path, out: Path, limit: int) -> int:
    """Write a patch of these stages and their payloads, and apply it once to see that it makes the target.

    Returns:
        Its size in bytes, or 0 when it would be longer than ``limit``; ``out`` is not there then.
    """
    payloads, whole = (out.with_name(f".{out.name}.{part}") for part in ("payloads", "whole"))
    out.parent.mkdir(parents=True, exist_ok=True)
    done, total, size = [], 0, 0
    try:
        with durable.disk_errors(out), payloads.open("wb") as file:
            for made, payload in stages:
                file.write(payload)
                done.append(made)
                total += len(payload)
                size += made.size
                if total > limit or (size > PROBE and total > size * HOPELESS):
                    return 0
        head = dump(replace(index, stages=tuple(done)))
        if len(head) + total > limit:
            return 0
        with durable.disk_errors(out), whole.open("wb") as file, payloads.open("rb") as rest:
            file.write(head)
            shutil.copyfileobj(rest, file, 1 << 20)
            durable.sync_file(file)
        _try(whole, base, index)
        whole.replace(out)
        durable.sync_dir(out.parent)
        return len(head) + total
    finally:
        payloads.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)


class _Hashing:
    """A sink that only hashes."""

    def __init__(self) -> None:
        self.done, self.digest = 0, hashlib.sha256()

    def write(self, chunk: bytes | memoryview, /) -> None:
        self.digest.update(chunk)
        self.done += len(chunk)


def _try(patch: Path, base: Path, index: Index) -> None:
    with patch.open("rb") as file, base.open("rb") as old:
        told, start = load(file, patch.stat().st_size)
        sink = _Hashing()
        apply(told, start, file, old, sink)
    if sink.digest.hexdigest() != index.target:
        raise TrustError(
            "the patch does not make the file it is for",
            where=str(base),
            remedy="One of the two bundles is damaged; `appliance verify` names it.",
        )


def _known(old: memoryview, wanted: set[bytes]) -> tuple[dict[bytes, Segment], list[Segment]]:
    """What the base has that the target has, by digest, and the rest, which is where the changes are."""
    known: dict[bytes, Segment] = {}
    rest = []
    for segment in segments(old):
        if segment.digest in wanted:
            known.setdefault(segment.digest, segment)
        else:
            rest.append(segment)
    return known, rest


@dataclass(frozen=True)
class Reference:
    """Segments of the base that payloads may refer to, and samples of them."""

    data: memoryview
    segments: tuple[Segment, ...]
    similar: Similar


def reference(data: memoryview, found: Iterable[Segment], every: int = 1) -> Reference:
    """Take samples of segments; ``every`` as in `Similar`."""
    similar, usable = Similar(every), []
    for number, segment in enumerate(found):
        raw = _unpacked(data, segment)
        usable.append(replace(segment, raw=0) if raw is None else segment)
        similar.add(number, bytes(_bytes(data, segment)) if raw is None else raw)
    return Reference(data, tuple(usable), similar)


def _bytes(data: memoryview, segment: Segment) -> memoryview:
    return data[segment.offset : segment.offset + segment.length]


def _unpacked(data: memoryview, segment: Segment) -> bytes | None:
    """What a frame holds, or None when it is none after all."""
    if not segment.raw:
        return bytes(_bytes(data, segment))
    try:
        return bytes(zstd.decompress(_bytes(data, segment), segment.raw))
    except TrustError:
        return None


def _level(new: memoryview, frames: list[Segment]) -> int:
    """The compression level that made these frames, 0 when none did.

    Most frames of an image hold one block's length; frames inside the files that it holds may be longer, and are others' work.
    """
    if not frames:
        return 0
    usual, _ = Counter(s.raw for s in frames).most_common(1)[0]
    some = sorted((s for s in frames if s.raw == usual), key=lambda s: -s.length)[:TRIED]
    raws = [_unpacked(new, frame) for frame in some]
    for level in LEVELS:
        same = (
            raw is not None and zstd.pack(raw, level) == _bytes(new, frame)
            for raw, frame in zip(raws, some, strict=True)
        )
        if sum(same) * 2 >= len(some):
            return level
    return 0


def _drafts(new: memoryview, wanted: list[Segment], known: dict[bytes, Segment], level: int) -> Iterator[Draft]:
    """The target in stages of at most ``RAW`` bytes that are not copied."""
    draft = Draft()
    for segment in wanted:
        if same := known.get(segment.digest):
            draft.copy(same.offset, same.length)
            continue
        if draft.raw + max(segment.raw, segment.length) > RAW:
            yield draft
            draft = Draft()
        raw = _unpacked(new, segment) if level and segment.raw else None
        again = raw is not None and zstd.pack(raw, level) == _bytes(new, segment)
        if raw is not None and again:
            draft.put(raw, Part.PACK, segment.length)
        else:
            draft.put(bytes(_bytes(new, segment)))
    yield draft


def stage(draft: Draft, old: Reference) -> tuple[Stage, bytes]:
    """A stage and its payload, which refers to what in the base is most like it."""
    chosen = [old.segments[n] for n in old.similar.best(draft.raws, REFERENCE)]
    context = b"".join(_unpacked(old.data, s) or b"" for s in chosen)
    payload = zstd.compress(b"".join(draft.raws), LEVEL, context) if draft.raws else b""
    ranges = tuple((s.offset, s.length, s.raw) for s in chosen)
    return Stage(ranges, len(payload), draft.raw, tuple(draft.parts)), payload
