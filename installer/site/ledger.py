"""Who is out of service, as this control host knows: written before a node is taken out, struck out when it proved itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine import durable, strictjson
from engine.errors import InputError

FILE = "out-of-service.json"


@dataclass(frozen=True)
class Absence:
    """One node. ``services`` are what it served."""

    since: str
    why: str
    services: tuple[str, ...]


class Ledger:
    """The record below the directory of runs. A damaged one stops the run: guessing would take out one node too many."""

    def __init__(self, runs: Path) -> None:
        self._path = runs / FILE
        self._out = self._read()

    @property
    def out(self) -> Mapping[str, Absence]:
        return self._out

    def take_out(self, services: Mapping[str, Iterable[str]], why: str) -> None:
        """Note that these nodes leave now; nodes that serve nothing are not noted."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for node, names in services.items():
            if kept := tuple(sorted(names)):
                self._out.setdefault(node, Absence(now, why, kept))
        self._write()

    def explain(self, node: str, why: str) -> None:
        """Say why a node that is out stays out."""
        if node in self._out:
            self._out[node] = Absence(self._out[node].since, why, self._out[node].services)
            self._write()

    def bring_back(self, nodes: Iterable[str]) -> None:
        """Strike these out: they serve."""
        if gone := [n for n in nodes if n in self._out]:
            for node in gone:
                del self._out[node]
            self._write()

    def _write(self) -> None:
        durable.write(self._path, json.dumps({n: asdict(a) for n, a in self._out.items()}, indent=1), mode=0o600)

    def _read(self) -> dict[str, Absence]:
        try:
            found = strictjson.loads(self._path.read_bytes())
            return {n: Absence(a["since"], a["why"], tuple(a["services"])) for n, a in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                "the record of nodes out of service is damaged",
                where=str(self._path),
                remedy="Look with `appliance status` which nodes serve; then remove the file.",
            ) from error
