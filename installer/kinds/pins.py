"""Pins of a wheel set: which version and which bytes of every wheel `lock` may choose, in a file that can be committed.

A lock names addresses of the builder that wrote it; pins name none, so they are the same on every builder. The format is
that of a requirements file, of which only ``name==version`` and ``--hash=sha256:…`` are accepted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packaging.utils import canonicalize_name
from packaging.version import Version

from engine import durable, inputfile
from engine.errors import InputError, UpstreamError
from installer.definition import WheelSet
from installer.kinds import Work
from installer.lockfile import Lock

MAX_BYTES = 4 << 20
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!]{0,63}", re.ASCII)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})", re.ASCII)
TOLD = 8  # problems named in one message; the rest is counted
WRITE = "`appliance lock DEFINITION --write-pins`"


class Wheel(Protocol):
    """A wheel that was chosen: uv's answer, or an artifact of a lock."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Pin:
    """One distribution: its version, and the SHA-256 of each wheel that may be taken. ``line`` is where it begins."""

    name: str
    version: str
    hashes: frozenset[str]
    line: int

    def is_of(self, version: str) -> bool:
        """Whether ``version`` is the pinned one, however it is spelled."""
        return Version(version) == Version(self.version)


@dataclass(frozen=True)
class Pins:
    """The pins of one set by normalised name. ``path`` is for messages."""

    path: str
    by_name: Mapping[str, Pin]

    @property
    def constraints(self) -> tuple[str, ...]:
        """What the resolver is held to."""
        return tuple(f"{pin.name}=={pin.version}" for pin in self.by_name.values())

    def hashes(self, name: str, version: str) -> frozenset[str]:
        """The pinned SHA-256 of this version; empty when it is not pinned."""
        pin = self.by_name.get(canonicalize_name(name))
        return pin.hashes if pin and pin.is_of(version) else frozenset()


def of(work: Work, wheels: WheelSet) -> Pins | None:
    """The pins that the set names; none when it names no file, or when the file is being written for the first time.

    Raises:
        InputError: there is no such file, or it is not a file of pins.
    """
    if not wheels.pins:
        return None
    path = work.base / wheels.pins
    if work.pinning != "obey" and not os.path.lexists(path):
        return Pins(str(path), {})
    return load(path)


def load(path: Path) -> Pins:
    """Read a file of pins.

    Raises:
        InputError: it is not there, or holds anything but pins; names file and line.
    """
    return parse(inputfile.read(path, MAX_BYTES, "the pins", f"Write them with {WRITE}."), str(path))


def parse(raw: bytes, path: str) -> Pins:
    """The pins in the bytes of a file; ``path`` is for messages.

    Raises:
        InputError: anything but comments, ``name==version`` and ``--hash=sha256:…``; names file and line.
    """
    if len(raw) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=path, remedy="Name a file of pins.")
    found: dict[str, Pin] = {}
    for number, words in _statements(raw, path):
        pin = _pin(words, path, number)
        if other := found.get(pin.name):
            raise _wrong(path, number, f"duplicate pin of {pin.name}, first on line {other.line}")
        found[pin.name] = pin
    return Pins(path, found)


def _statements(raw: bytes, path: str) -> Iterator[tuple[int, list[str]]]:
    """The words of every statement and the line it begins on; a backslash at the end of a line continues it."""
    begin = 0
    words: list[str] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not all(byte == 9 or 32 <= byte < 127 for byte in line):
            raise _wrong(path, number, "a character that is not printable ASCII")
        text = line.decode("ascii").strip()
        if not words and (not text or text.startswith("#")):
            continue
        begin = begin if words else number
        words += text.removesuffix("\\").split() or [""]
        if not text.endswith("\\"):
            yield begin, words
            words = []
    if words:
        raise _wrong(path, begin, "the statement does not end: a backslash continues it")


def _pin(words: list[str], path: str, number: int) -> Pin:
    name, equals, version = words[0].partition("==")
    if not equals or not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise _wrong(path, number, f"{words[0][:80]!a} is not NAME==VERSION")
    try:
        Version(version)
    except ValueError as error:
        raise _wrong(path, number, f"{version!a} is not a version") from error
    hashes = []
    for word in words[1:]:
        if not (match := HASH.fullmatch(word)):
            raise _wrong(path, number, f"{word[:80]!a} is not --hash=sha256: and 64 hexadecimal digits")
        hashes.append(match[1])
    if not hashes:
        raise _wrong(path, number, f"{name} has no --hash=sha256:…")
    return Pin(canonicalize_name(name), version, frozenset(hashes), number)


def _wrong(path: str, line: int, what: str) -> InputError:
    return InputError(
        what, where=f"{path}:{line}", remedy=f"A file of pins holds nothing but pins; {WRITE} writes one."
    )


def require(pins: Pins, chosen: Sequence[Wheel], wheel_set: str, *, complete: bool = True) -> None:
    """Refuse wheels that are not pinned. Without ``complete`` other versions and further names pass: they will be written.

    Raises:
        UpstreamError: a wheel of the pinned version has other bytes, or the version is another one.
        InputError: a wheel is needed and not pinned.
    """
    other, missing, line = [], [], 0
    for wheel in chosen:
        pin = pins.by_name.get(canonicalize_name(wheel.name))
        if pin is None:
            missing.append(f"{wheel.name} {wheel.version} (sha256:{wheel.sha256[:12]}…)")
        elif not pin.is_of(wheel.version):
            if complete:
                other.append(f"{wheel.name} is pinned to {pin.version}, the source serves {wheel.version}")
                line = line or pin.line
        elif wheel.sha256 not in pin.hashes:
            pinned = " or ".join(f"sha256:{h[:12]}…" for h in sorted(pin.hashes)[:3])
            served = f"sha256:{wheel.sha256[:12]}…"
            other.append(f"{wheel.name} {wheel.version} is pinned to {pinned}, the source serves {served}")
            line = line or pin.line
    if other:
        raise UpstreamError(
            f"wheels: {wheel_set}: {_listed(other)}",
            where=f"{pins.path}:{line}",
            remedy="Find out why before you use them: the same version never changes its bytes. For another target, or once you "
            f"trust them, delete their lines there and run {WRITE}.",
        )
    if missing and complete:
        raise InputError(
            f"wheels: {wheel_set}: needed and not pinned: {_listed(missing)}",
            where=pins.path,
            remedy=f"Add what you want with {WRITE} and review the change.",
        )


def _listed(texts: list[str]) -> str:
    more = f"; and {len(texts) - TOLD} more" if len(texts) > TOLD else ""
    return "; ".join(texts[:TOLD]) + more


def unneeded(pins: Pins, chosen: Sequence[Wheel]) -> str:
    """A remark on pins that nothing asked for; empty when there are none."""
    extra = sorted(pins.by_name.keys() - {canonicalize_name(w.name) for w in chosen})
    texts = [f"{name} {pins.by_name[name].version}" for name in extra]
    return f"{pins.path}: not needed: {_listed(texts)}" if texts else ""


def render(wheel_set: str, wheels: Sequence[Wheel]) -> str:
    """The file for these wheels: no address, and nothing that another builder would write in another way."""
    ordered = sorted((canonicalize_name(w.name), w.version, w.sha256) for w in wheels)
    head = f"# Wheels of the set {wheel_set}. Written by `appliance lock --write-pins`; review changes, do not edit.\n"
    return head + "".join(f"{name}=={version} \\\n    --hash=sha256:{sha256}\n" for name, version, sha256 in ordered)


def write(work: Work, lock: Lock) -> list[Path]:
    """Write the pins of every set that names a file, from its lock; the files that changed.

    Raises:
        ResourceError: a file cannot be written.
    """
    changed = []
    for wheels in work.definition.wheels:
        path = work.base / wheels.pins
        if not wheels.pins:
            continue
        text = render(wheels.name, [a for a in lock.of_kind("wheels") if a.group == wheels.name])
        if not path.is_file() or path.read_text() != text:
            durable.write(path, text)
            changed.append(path)
    return changed


def require_locked(work: Work, lock: Lock) -> None:
    """The same of a lock that was written earlier: pins may have changed since.

    Raises:
        InputError: a locked wheel is not the one that is pinned now.
    """
    for wheels in work.definition.wheels:
        pins = of(work, wheels)
        if pins is None:
            continue
        for a in lock.of_kind("wheels"):
            if a.group == wheels.name and a.sha256 not in pins.hashes(a.name, a.version):
                raise InputError(
                    f"wheels: {wheels.name}: {a.name} {a.version} is locked and not pinned",
                    where=pins.path,
                    remedy="The pins changed since the lock was written. Run `appliance lock` again and review the difference.",
                )
