"""Switch a node to one of its generations: drain, put the files back, start what belongs to them. A killed switch is ended by the next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.errors import ApplianceError
from engine.generation import tree, units
from engine.generation.store import Generation, Store
from engine.generation.units import Systemd

CONFIRM_S = 60


@dataclass(frozen=True)
class Switched:
    """What a switch did. ``switched_s`` is the time in which files changed, ``seconds`` the whole until everything ran again.

    ``confirm`` says that firewall rules changed and are taken back unless somebody confirms them through a new connection.
    """

    generation: int
    release: str
    changed: tuple[str, ...]
    restarted: tuple[str, ...]
    confirm: bool
    switched_s: float
    seconds: float


class Rules(Protocol):
    """Puts rule texts into force; returns whether that needs a confirmation."""

    def __call__(self, texts: dict[str, str]) -> bool: ...


def switch(store: Store, target: Generation, systemd: Systemd, rules: Rules) -> Switched:
    """Make ``target`` what the node runs.

    Raises:
        ApplianceError: a unit does not start, or a kept copy is damaged. The same command again goes on from there.
    """
    begin = time.monotonic()
    before = tree.scan(store.root)
    changed = tree.differences(before, target.entries)
    planned = units.moves(changed, before, target.entries, systemd.loaded(), lambda path: _text(store.root / path))
    store.begin(target.number)
    if planned.answers:
        _drained(store.root).touch()
    systemd.stop(planned.stop)
    at = time.monotonic()
    store.put_back(target)
    systemd.reload()
    switched = time.monotonic() - at
    # What should run and does not (because an earlier switch was killed, or it failed) starts, too.
    systemd.forget_failures()
    start = (*planned.start, *(u for u in systemd.inactive(units.wanted(target.entries)) if u not in planned.start))
    systemd.start(sorted(start, key=lambda u: u == units.EDGE))
    confirm = rules(_rules(store, target))
    if planned.answers:
        systemd.reload_edge()
    _drained(store.root).unlink(missing_ok=True)
    store.end(target.number)
    return Switched(
        target.number,
        target.release,
        changed,
        planned.stop,
        confirm,
        round(switched, 3),
        round(time.monotonic() - begin, 2),
    )


def _drained(root: Path) -> Path:
    return root / units.DRAINED


def firewall(texts: dict[str, str]) -> bool:
    """The real way to put rules into force."""
    from engine.firewall import Firewall  # noqa: PLC0415  most switches change no rules
    from engine.firewall_rules import NAMES, Rules  # noqa: PLC0415

    if set(texts) != set(NAMES):
        return False  # the generation is from before there was a firewall
    return Firewall().apply(Rules.of(texts), confirm_within_s=CONFIRM_S).changed


def _rules(store: Store, target: Generation) -> dict[str, str]:
    prefix = f"{tree.RULES}/"
    paths = [p for p in target.entries if p.startswith(prefix) and p.endswith(".nft")]
    return {Path(p).stem: _text(store.root / p) for p in paths}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ApplianceError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Install the release again."
        ) from error
