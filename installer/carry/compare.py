"""Two lists of signed files side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.trust import Target, Trusted


@dataclass(frozen=True)
class Change:
    """One path that differs. ``old`` and ``new`` in bytes, None where it is absent; what happens to it is ``what``."""

    what: str
    path: str
    kind: str
    old: int | None
    new: int | None


@dataclass(frozen=True)
class Difference:
    """All changes, and what a site that has the old one lacks."""

    changes: tuple[Change, ...]
    unchanged: int
    lacking: tuple[Target, ...]

    @property
    def to_carry(self) -> int:
        """Bytes."""
        return sum(t.size for t in self.lacking)


def difference(old: Trusted, new: Trusted) -> Difference:
    """What changed from ``old`` to ``new``; a file that only moved is named, but need not be carried."""
    changes = []
    for path in sorted({*old.targets, *new.targets}):
        before, after = old.targets.get(path), new.targets.get(path)
        if before and after and before.sha256 == after.sha256:
            continue
        some = after or before
        assert some is not None  # noqa: S101  the path comes from one of the two
        what = "changed" if before and after else "added" if after else "removed"
        changes.append(Change(what, path, some.kind, before.size if before else None, after.size if after else None))
    unchanged = sum(1 for p, t in new.targets.items() if p in old.targets and old.targets[p].sha256 == t.sha256)
    return Difference(tuple(changes), unchanged, lacking(new, (t.sha256 for t in old.targets.values())))


def lacking(wanted: Trusted, have: Iterable[str]) -> tuple[Target, ...]:
    """The files whose content is not among ``have``, one for each content, in order of their paths."""
    known = set(have)
    missing: dict[str, Target] = {}
    for _, target in sorted(wanted.targets.items()):
        if target.sha256 not in known:
            missing.setdefault(target.sha256, target)
    return tuple(missing.values())
