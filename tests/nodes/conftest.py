"""What node tests share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from installer.lab.lab import down


@pytest.fixture
def name() -> Iterator[str]:
    """A lab name that nobody else has; whatever the test leaves goes away."""
    unique = f"test-{secrets.token_hex(3)}"
    yield unique
    down(unique)
