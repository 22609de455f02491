"""The builder's side of patches: which file of a base a lacking file resembles, and a patch where it is clearly smaller."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from engine.blobs import hash_file
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from installer.carry.patches import Patch
from installer.patch import make, wheels
from installer.patch.make import File

LEAST = 256 << 10  # bytes; a smaller file is carried whole
MAX_IMAGES = 3  # runtime images that a wheel is looked for in
IMAGE, WHEEL, WEIGHTS = ".squashfs", ".whl", ".safetensors"
CLEARLY = 0.8  # of the file's size; what is not smaller than that is carried whole


@dataclass(frozen=True)
class Base:
    """A bundle whose content the receiver has."""

    path: Path
    trusted: Trusted


@dataclass(frozen=True)
class Relative:
    """An older file that the receiver has."""

    base: Base
    target: Target


class Patcher(AbstractContextManager["Patcher"]):
    """Makes patches from what is in ``bases`` and among ``have`` (SHA-256), and of wheels from images of the release itself.

    Args:
        release: the bundle that the patches are for.
        libzstd: the receiver's version; empty when it is taken to be this machine's.
    """

    def __init__(self, release: Base, bases: Sequence[Base], have: set[str], libzstd: str = "") -> None:
        self._pack_again = make.may_pack_again(libzstd)
        self._release = release
        self._known = [r for base in bases for r in _files(base) if r.target.sha256 in have]
        self._images = [r for r in _files(release) if r.target.path.endswith(IMAGE)]
        self._open = ExitStack()
        self._libraries: dict[str, make.Reference] = {}

    def __exit__(self, *_: object) -> None:
        self._libraries.clear()
        self._open.close()

    def relatives(self, target: Target) -> list[Relative]:
        """Files to make a patch from, best first: of a wheel the images that may hold its content, else the file that most
        likely is the one before it: same kind, same name but for its version.
        """
        if target.size < LEAST:
            return []
        if target.path.endswith(WHEEL):
            return self._images[:MAX_IMAGES]
        name = _plain(target.path)
        alike = [r for r in self._known if r.target.kind == target.kind and _plain(r.target.path) == name]
        return sorted(alike, key=lambda r: _likeness(r.target.path, target.path), reverse=True)[:1]

    def patch(self, target: Target, staging: Path, report: Report | None = None) -> Patch | None:
        """Write a patch below ``staging``; None when it would not be clearly smaller than the file.

        Raises:
            TrustError: a file is not as signed.
        """
        report, task = report or Silent(), f"patch {Path(target.path).name}"
        for found in self.relatives(target):
            base = found.target
            named = Patch(
                sha256=target.sha256, size=0, target=target.sha256, target_size=target.size, base=base.sha256,
                base_size=base.size, base_path=base.path, base_release=found.base.trusted.release,
            )  # fmt: skip
            report.begin(task)
            size = self._make(found, target, staging / named.path)
            report.end(task)
            if size:
                return named.model_copy(update={"sha256": hash_file(staging / named.path)[0], "size": size})
        return None

    def _make(self, found: Relative, target: Target, out: Path) -> int:
        old = File(found.base.path / found.target.path, found.target.sha256, found.target.size)
        new = File(self._release.path / target.path, target.sha256, target.size)
        limit = int(target.size * CLEARLY)
        if target.path.endswith(WHEEL):
            known = self._libraries.get(old.sha256)
            if known is None:
                known = self._libraries[old.sha256] = self._open.enter_context(wheels.library(old))
            return wheels.make(old, known, new, out, limit=limit)
        if target.path.endswith(WEIGHTS):
            from installer.patch import tensors  # noqa: PLC0415  numpy takes a while to load

            return tensors.make(old, new, out, limit=limit)
        return make.make(old, new, out, limit=limit, pack_again=self._pack_again)


def last(targets: Iterable[Target]) -> list[Target]:
    """Files in the order of their patches: wheels behind the images that they are made of."""
    return sorted(targets, key=lambda t: t.path.endswith(WHEEL))


def _files(base: Base) -> list[Relative]:
    """Files of a bundle that are there and large enough."""
    listed = sorted(base.trusted.targets.items())
    return [Relative(base, t) for _, t in listed if t.size >= LEAST and (base.path / t.path).is_file()]


def _plain(path: str) -> str:
    """A path without the numbers in it, which are what changes between versions."""
    return re.sub(r"[0-9]+(?:[.][0-9a-z]+)*", "#", path)


def _likeness(old: str, new: str) -> tuple[bool, bool, int, str]:
    """The same path is more like than the same name, and that more than a long common begin."""
    return (
        old == new,
        Path(old).name == Path(new).name,
        sum(1 for _ in takewhile(lambda c: c[0] == c[1], zip(old, new, strict=False))),
        old,
    )
