"""What the firewall remembers about a change: while it waits, how it ended, and what was loaded last."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import durable, strictjson


@dataclass(frozen=True)
class Places:
    """Where the firewall keeps its files: rules, records that survive a restart, and those that must not."""

    etc: Path = Path("/etc/appliance/firewall")
    state: Path = Path("/var/lib/appliance/firewall")
    run: Path = Path("/run/appliance/firewall")


@dataclass(frozen=True)
class Pending:
    """Rules that are loaded but not confirmed. ``previous`` and ``kernel`` are digests of what nft lists."""

    digest: str
    unit: str
    boot: str
    confirm_within_s: int
    applied_at: str
    previous: str
    kernel: str = ""


class Record:
    """The small files behind ``status``. A damaged one counts as missing: records never decide what is let through."""

    def __init__(self, places: Places) -> None:
        self.restore = places.state / "restore.nft"
        self._pending = places.state / "pending.json"
        self._last = places.state / "last.json"
        self._loaded = places.run / "loaded.json"
        self._boot = places.run / "boot"

    def boot(self) -> str:
        """The name ``mark_boot`` gave to the time since the last restart, empty when it has not been asked to.

        A file below /run, which a restart empties, and not the kernel's boot_id: a unit with a /proc of its own in a
        container reads another boot_id than the shell beside it, and would take an apply that waits for one of
        before a restart.
        """
        return _text(self._boot)

    def mark_boot(self) -> str:
        """``boot``, named now if it has no name yet."""
        if not self.boot():
            durable.write(self._boot, secrets.token_hex(16), mode=0o600)
        return self.boot()

    def begin(self, pending: Pending, restore: str) -> None:
        """Remember what to put back, then that something waits."""
        durable.write(self.restore, restore, mode=0o600)
        self.wait(pending)

    def wait(self, pending: Pending) -> None:
        durable.write(self._pending, json.dumps(asdict(pending), indent=2), mode=0o600)

    def pending(self) -> Pending | None:
        found = _json(self._pending)
        return Pending(**found) if found.keys() == Pending.__dataclass_fields__.keys() else None

    def end(self, pending: Pending, outcome: str) -> None:
        """Write down how it ended, then forget that it waited."""
        record = {"digest": pending.digest, "outcome": outcome, "applied_at": pending.applied_at, "noted_at": now()}
        durable.write(self._last, json.dumps(record, indent=2), mode=0o600)
        self._pending.unlink(missing_ok=True)
        self.restore.unlink(missing_ok=True)
        durable.sync_dir(self._last.parent)

    def last(self) -> dict[str, Any] | None:
        """How the last apply ended: digest, outcome, applied_at, noted_at."""
        return _json(self._last) or None

    def last_words(self) -> str:
        return str((self.last() or {}).get("outcome", "none ever were"))

    def note_loaded(self, tier: str, digest: str, kernel: str) -> None:
        """Remember until the next restart that ``kernel`` is how nft lists the ``tier`` rules of ``digest``."""
        note = {"tier": tier, "digest": digest, "kernel": kernel}
        durable.write(self._loaded, json.dumps(note), mode=0o600)

    def tier(self, digest: str, kernel: str) -> str:
        """Which rules of ``digest`` the kernel has, empty when they are not the ones loaded last."""
        note = _json(self._loaded)
        return str(note["tier"]) if (note.get("digest"), note.get("kernel")) == (digest, kernel) else ""


def now() -> str:
    """The time for a record, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = strictjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
