"""The builder's side of patches: which file of a base a lacking file resembles, and a patch where it is clearly smaller."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from engine.blobs import hash_file
from engine.report import Report, Silent
from engine.trust import Target, Trusted
from installer.carry.patches import Patch
from installer.patch import make
from installer.patch.make import File

LEAST = 256 << 10  # bytes; a smaller file is carried whole
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


class Patcher:
    """Makes patches from what is in ``bases`` and among ``have`` (SHA-256).

    Args:
        libzstd: the receiver's version; empty when it is taken to be this machine's.
    """

    def __init__(self, bases: Sequence[Base], have: set[str], libzstd: str = "") -> None:
        self._pack_again = make.may_pack_again(libzstd)
        self._known = [
            Relative(base, target)
            for base in bases
            for _, target in sorted(base.trusted.targets.items())
            if target.sha256 in have and target.size >= LEAST and (base.path / target.path).is_file()
        ]

    def relative(self, target: Target) -> Relative | None:
        """The file that most likely is the one before ``target``: same kind, same name but for its version."""
        if target.size < LEAST:
            return None
        name = _plain(target.path)
        alike = [r for r in self._known if r.target.kind == target.kind and _plain(r.target.path) == name]
        return max(alike, key=lambda r: _likeness(r.target.path, target.path), default=None)

    def patch(self, bundle: Path, target: Target, staging: Path, report: Report | None = None) -> Patch | None:
        """Write a patch below ``staging``; None when it would not be clearly smaller than the file.

        Raises:
            TrustError: a file is not as signed.
        """
        found = self.relative(target)
        if found is None:
            return None
        (report or Silent()).begin(f"patch {Path(target.path).name}")
        base = found.target
        named = Patch(
            sha256=target.sha256, size=0, target=target.sha256, target_size=target.size, base=base.sha256,
            base_size=base.size, base_path=base.path, base_release=found.base.trusted.release,
        )  # fmt: skip
        out = staging / named.path
        old = File(found.base.path / base.path, base.sha256, base.size)
        new = File(bundle / target.path, target.sha256, target.size)
        limit = int(target.size * CLEARLY)
        if target.path.endswith(".safetensors"):
            from installer.patch import tensors  # noqa: PLC0415  numpy takes a while to load

            size = tensors.make(old, new, out, limit=limit)
        else:
            size = make.make(old, new, out, limit=limit, pack_again=self._pack_again)
        (report or Silent()).end(f"patch {Path(target.path).name}")
        return named.model_copy(update={"sha256": hash_file(out)[0], "size": size}) if size else None


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
