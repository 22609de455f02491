"""API keys. Only their SHA-256 is kept; the prefix names the site, so that a key found elsewhere can be told to its owner."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.errors import InputError
from engine.gateway.configuration import MAX_KEY_DAYS

LEAST_DAYS = 30
FORM = re.compile(r"sk-[a-z0-9]{1,16}-[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class NewKey:
    """A key as it is shown once."""

    id: str
    text: str
    created: datetime
    expires: datetime

    def entry(self, project: str | None) -> str:
        """Its entry under a tenant's ``keys`` in the configuration (YAML)."""
        more = f", project: {project}" if project else ""
        return (
            f'- {{id: {self.id}, sha256: "{digest(self.text)}"{more}, '
            f'created: "{self.created.isoformat()}", expires: "{self.expires.isoformat()}"}}\n'
        )


def make(site: str, name: str, days: int, now: datetime | None = None) -> NewKey:
    """A new key of 256 random bits.

    Raises:
        InputError: the name or the number of days is not allowed.
    """
    if not LEAST_DAYS <= days <= MAX_KEY_DAYS:
        raise InputError(
            f"a key is valid for {LEAST_DAYS} to {MAX_KEY_DAYS} days, not {days}",
            where="--days",
            remedy="Choose a number between them.",
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise InputError(
            "the name of a key is lower-case letters, digits and hyphens", where="--id", remedy="Choose another name."
        )
    created = (now or datetime.now(UTC)).replace(microsecond=0)
    return NewKey(name, f"sk-{site}-{secrets.token_urlsafe(32)}", created, created + timedelta(days=days))


def digest(text: str) -> str:
    """What is kept of a key (hex)."""
    return hashlib.sha256(text.encode()).hexdigest()
