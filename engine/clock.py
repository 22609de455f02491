"""Clocks in air gaps drift and batteries die: remember the latest time seen, and refuse to go back behind it.

A clock that is behind makes expired metadata look fresh, which is the freeze attack without an attacker.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine import durable, strictjson
from engine.errors import TrustError

TOLERANCE = timedelta(minutes=10)  # what two machines' clocks may differ without anybody being wrong


def check(file: Path, now: datetime) -> None:
    """Compare the clock with the latest time seen.

    Raises:
        TrustError: the clock is behind it.
    """
    seen = latest(file)
    if seen and now < seen - TOLERANCE:
        raise TrustError(
            f"this machine's clock says {_show(now)}, but it has been {_show(seen)} already",
            where=str(file),
            remedy="Set the clock. If it was wrong before and is right now, delete that file and say so in your change record.",
        )


def check_signed_at(version: int, now: datetime, role: str = "targets") -> None:
    """Metadata cannot come from the future; its version is the time it was signed, in seconds since 1970.

    Holds for every role: a version of the timestamp or snapshot that is far ahead would lock out the genuine next release.

    Args:
        role: whose version it is, for the message.

    Raises:
        TrustError: the clock is behind the signature.
    """
    if version > now.timestamp() + TOLERANCE.total_seconds():
        when = _show(datetime.fromtimestamp(version, UTC)) if version < 1 << 35 else f"version {version}"
        raise TrustError(
            f"the {role} metadata was signed at {when}, which is later than this machine's clock ({_show(now)}), as in a fast-forward attack",
            remedy="Set this machine's clock, or the builder's if that one was wrong, and sign again.",
        )


def remember(file: Path, now: datetime) -> None:
    """Keep the latest time seen."""
    seen = latest(file)
    if seen is None or now > seen:
        durable.write(file, json.dumps({"latest": now.astimezone(UTC).isoformat(timespec="seconds")}) + "\n")


def latest(file: Path) -> datetime | None:
    """The latest time seen; None before the first.

    Raises:
        TrustError: the file is damaged; guessing would undo what it is for.
    """
    try:
        return datetime.fromisoformat(strictjson.loads(file.read_bytes())["latest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrustError(
            "cannot read the latest time seen",
            where=str(file),
            remedy="Check this machine's clock by hand, then delete that file.",
        ) from error


def _show(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
