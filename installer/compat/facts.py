"""What rules look at and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

from packaging.version import InvalidVersion, Version

from installer.definition import Target

Severity = Literal["failure", "warning"]


@dataclass(frozen=True)
class Wheel:
    """One locked wheel. ``tags`` are (interpreter, ABI, platform) triples of its file name; ``profiles`` the kinds of node."""

    group: str
    name: str
    version: str
    tags: tuple[tuple[str, str, str], ...]
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deb:
    """One locked Debian package, and the kinds of node that get it."""

    name: str
    version: str
    arch: str
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """What the intake noted of a model in the lock: which of its rules, and what."""

    model: str
    rule: str
    what: str


@dataclass(frozen=True)
class Facts:
    """Everything the rules may use. ``today`` decides which driver branches are over; ``compilers`` are the wheel sets whose image has one."""

    target: Target
    wheels: tuple[Wheel, ...]
    debs: tuple[Deb, ...]
    today: date
    advice: tuple[Advice, ...] = ()
    compilers: frozenset[str] = frozenset()

    def wheel(self, group: str, name: str) -> Wheel | None:
        """The wheel of that (canonical) name in one set."""
        return next((w for w in self.wheels if w.group == group and w.name == name), None)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the wheel sets."""
        return tuple(sorted({w.group for w in self.wheels}))


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit: which rule, how bad, what, and how to mend it."""

    rule: str
    severity: Severity
    what: str
    remedy: str


Rule = Callable[[Facts], Iterator[Finding]]


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, ``13.0.88`` as (13, 0, 88); empty when it is no Python version."""
    try:
        return Version(version).release
    except InvalidVersion:
        return ()


def public(version: str) -> str:
    """A version without its local part; unchanged when it is no Python version."""
    try:
        return Version(version).public
    except InvalidVersion:
        return version


def branch(driver: str) -> int:
    """The driver branch, 580 of ``580.178.04``."""
    return int(driver.split(".", maxsplit=1)[0])


def dotted(numbers: tuple[int, ...]) -> str:
    """(13, 0) as ``13.0``."""
    return ".".join(map(str, numbers))
