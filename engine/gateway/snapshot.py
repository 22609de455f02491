"""What workers decide by: one configuration with the keys of its issuers, numbered, never changed, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from engine.errors import InputError
from engine.gateway import checking
from engine.gateway.configuration import Configuration

MAX_JWKS = 1 << 20


def read(path: Path) -> tuple[Configuration, dict[str, Any]]:
    """A configuration with the key sets (JWKS) of its issuers.

    Raises:
        InputError: anything of it is wrong; then nothing of it may be used.
    """
    from engine.gateway.worker.tokens import key_set  # noqa: PLC0415  # cryptography loads only where there are issuers

    config = checking.load(path)
    sets: dict[str, Any] = {}
    for issuer in config.issuers:
        try:
            with issuer.jwks.open("rb") as file:
                raw = file.read(MAX_JWKS + 1)
            if len(raw) > MAX_JWKS:
                raise ValueError("it is larger than 1 MiB")
            found = orjson.loads(raw)
            key_set(found)
        except OSError as error:
            raise InputError(
                f"cannot read: {error.strerror}", where=str(issuer.jwks), remedy="Check the issuer's jwks."
            ) from error
        except ValueError as error:
            raise InputError(
                f"not a JWKS: {error}", where=str(issuer.jwks), remedy="Write the issuer's key set there."
            ) from error
        sets[issuer.issuer] = found
    return config, sets


def watched(path: Path, config: Configuration) -> list[Path]:
    """The files whose change makes another snapshot."""
    return [path, *(i.jwks for i in config.issuers)]


def state_of(paths: list[Path]) -> list[tuple[int, int, int]]:
    """What changes when one of the files is written or replaced."""
    found = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError:
            found.append((0, 0, 0))
    return found
