"""The generations of a node on disk: kept, read, switched and pruned. Files only; units are for engine.generation.units.

/opt/appliance/generations/N/generation.json   what it is
/opt/appliance/generations/N/files/PATH        copies of its files
/opt/appliance/generations/current -> N        the one that proved itself last
/opt/appliance/generations/switching.json      a switch that has begun; whoever finds it, ends it
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import durable, strictjson
from engine.durable import disk_errors
from engine.errors import ApplianceError, InputError, ResourceError
from engine.generation import tree
from engine.generation.tree import Entries, Entry

DIRECTORY = "opt/appliance/generations"
MEASUREMENTS = "var/lib/appliance/gate"


@dataclass(frozen=True)
class Generation:
    """One state of the node that worked.

    Attributes:
        inputs: digest of what the control host made it from; empty when nobody said.
        checks: what else was true then, see engine.generation.checks.
    """

    number: int
    release: str
    inputs: str
    made: str
    entries: Entries
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return tree.digest(self.entries)


class Store:
    """All generations below ``root``, which is / except in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.directory = root / DIRECTORY

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One at a time: an install and an operator's rollback must not mix.

        Raises:
            ResourceError: somebody else is at it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / ".lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResourceError(
                    "the node's generations are being switched or kept already",
                    where=str(self.directory),
                    remedy="Wait for it to end.",
                ) from error
            yield

    def numbers(self) -> tuple[int, ...]:
        """All that are complete, oldest first."""
        if not self.directory.is_dir():
            return ()
        found = [p.name for p in self.directory.iterdir() if p.name.isdigit() and (p / "generation.json").is_file()]
        return tuple(sorted(map(int, found)))

    def current(self) -> Generation | None:
        """The one that proved itself last; None before the first."""
        link = self.directory / "current"
        return self.load(int(link.readlink().name)) if link.is_symlink() else None

    def previous(self) -> Generation | None:
        """The newest one before the current that is of another release, or else the one before it."""
        current = self.current()
        if current is None:
            return None
        older = [self.load(n) for n in self.numbers() if n < current.number]
        others = [g for g in older if g.release != current.release]
        return next(reversed(others or older), None)

    def load(self, number: int) -> Generation:
        """Raises:
        InputError: there is none with that number, or its record is damaged.
        """
        path = self.directory / str(number) / "generation.json"
        try:
            data = strictjson.loads(path.read_bytes())
            entries = {p: Entry(**e) for p, e in data.pop("entries").items()}
            return Generation(**data, entries=entries)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            have = ", ".join(map(str, self.numbers())) or "none"
            raise InputError(
                f"there is no whole generation {number}", where=str(path), remedy=f"The node has: {have}."
            ) from error

    def keep(self, inputs: str, checks: Mapping[str, Any]) -> tuple[Generation, bool]:
        """Make what is there now the current generation; nothing is written when it is already.

        Returns:
            The generation, and whether it is a new one.
        """
        entries, current = tree.scan(self.root), self.current()
        if current and current.entries == entries:
            if (current.inputs, dict(current.checks)) == (inputs, dict(checks)):
                return current, False
            same = Generation(current.number, current.release, inputs, current.made, entries, checks)
            self._record(self.directory / str(same.number), same)
            return same, False
        number = max([0, *self.numbers()]) + 1
        release = Path(entries[tree.CURRENT].content).name if tree.CURRENT in entries else ""
        made = Generation(number, release, inputs, datetime.now(UTC).isoformat(timespec="seconds"), entries, checks)
        place = self.directory / str(number)
        with disk_errors(place):
            shutil.rmtree(place, ignore_errors=True)  # what a killed one left has no record
            place.mkdir(mode=0o700, parents=True)
            with durable.together(place):
                for path, entry in entries.items():
                    if entry.kind == "file":
                        durable.write(place / "files" / path, (self.root / path).read_bytes(), mode=0o600)
        self._record(place, made)
        self._point(number)
        return made, True

    def forget_measurements(self) -> None:
        """What the gate measured belongs to the change that has just ended."""
        for path in (self.root / MEASUREMENTS).glob("*.json"):
            path.unlink()

    def begin(self, target: int) -> None:
        """Write down that a switch has begun."""
        durable.write(self.directory / "switching.json", json.dumps({"to": target}), mode=0o600)

    def begun(self) -> int | None:
        """The target of a switch that has not ended."""
        try:
            return int(strictjson.loads((self.directory / "switching.json").read_bytes())["to"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def end(self, target: int) -> None:
        """The switch is done: the target is the current generation."""
        self.forget_measurements()
        self._point(target)
        (self.directory / "switching.json").unlink(missing_ok=True)
        durable.sync_dir(self.directory)

    def put_back(self, target: Generation) -> tuple[str, ...]:
        """Make the node's files those of ``target``; each changes whole or not at all. Returns the paths that changed.

        The firewall's rule texts are put back too; loading them is the caller's.

        Raises:
            ApplianceError: a kept copy is damaged; nothing was changed.
        """
        now = tree.scan(self.root)
        changed = tree.differences(now, target.entries)
        copies = self.directory / str(target.number) / "files"
        contents: dict[str, bytes] = {}
        for path in changed:
            entry = target.entries.get(path)
            if entry and entry.kind == "file":
                contents[path] = self._copy(copies / path, entry)
        # The link to the release last: until then everything that starts is the old.
        for path in sorted(changed, key=lambda p: p == tree.CURRENT):
            entry, place = target.entries.get(path), self.root / path
            with disk_errors(place):
                if entry is None:
                    place.unlink(missing_ok=True)
                elif entry.kind == "link":
                    _link(place, entry.content)
                else:
                    durable.write(place, contents[path], mode=entry.mode)
                    os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
        return changed

    def surplus(self, keep: int) -> tuple[int, ...]:
        """All but the newest ``keep`` and the current one."""
        current = self.current()
        numbers = self.numbers()
        return tuple(n for n in numbers[: max(0, len(numbers) - keep)] if current is None or n != current.number)

    def forget(self, numbers: Iterable[int]) -> None:
        """Remove these generations: their records and copies of files."""
        for number in numbers:
            place = self.directory / str(number)
            (place / "generation.json").unlink()  # without it the rest counts as nothing
            shutil.rmtree(place)

    def releases(self) -> set[str]:
        """Releases that some generation needs."""
        return {self.load(n).release for n in self.numbers()} - {""}

    def _copy(self, path: Path, entry: Entry) -> bytes:
        import hashlib  # noqa: PLC0415

        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != entry.content:
            raise ApplianceError(
                "the kept copy of a file is damaged",
                where=str(path),
                remedy="Go to another generation, or install the release again.",
            )
        return data

    def _record(self, place: Path, generation: Generation) -> None:
        plain = asdict(generation) | {"entries": {p: asdict(e) for p, e in generation.entries.items()}}
        durable.write(place / "generation.json", json.dumps(plain, indent=1, sort_keys=True) + "\n", mode=0o600)

    def _point(self, number: int) -> None:
        _link(self.directory / "current", str(number))


def _link(place: Path, target: str) -> None:
    """A symbolic link, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(target)
    temporary.replace(place)
    durable.sync_dir(place.parent)
