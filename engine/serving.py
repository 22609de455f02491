"""What each served model was started with, beside what is written for the next start. Standard library alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITTEN = Path("etc/appliance/vllm")
MAX_BYTES = 1 << 20  # of a configuration; the rest of a longer one is not compared
NO_COMPILER = "TORCHDYNAMO_DISABLE=1"  # roles/vllm/templates/instance.conf.j2


@dataclass(frozen=True)
class Serving:
    """One service. ``as_written`` is None where it does not run; ``compiles`` is False where its node has no compiler for it."""

    service: str
    as_written: bool | None
    compiles: bool


def services(root: Path = Path("/")) -> Iterator[Serving]:
    """Every service that is written below ``root``, by name.

    systemd keeps the copy of the configuration that a service was started with; the role writes a digest of unit, drop-in and
    environment into it, so that it differs when any of them does.
    """
    for written in sorted((root / WRITTEN).glob("*.yaml")):
        unit = f"appliance-vllm@{written.stem}.service"
        started = _read(root / "run/credentials" / unit / "config.yaml")
        own = _read(root / "etc/systemd/system" / f"{unit}.d/instance.conf") or b""
        as_written = None if started is None else started == _read(written)
        yield Serving(written.stem, as_written, NO_COMPILER.encode() not in own)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError:
        return None
