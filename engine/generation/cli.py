"""`appliance-engine generation VERB`: JSON on standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.generation import checks, missed, states, tree, units
from engine.generation.store import Generation, Store
from engine.generation.units import Systemd
from engine.serving import services

CERTIFICATE = Path("/etc/appliance/pki/node.crt")


def main(argv: Sequence[str]) -> int:
    """Run one verb."""
    asked = _parser().parse_args(argv)
    sys.stdout.write(json.dumps(_VERBS[asked.verb](asked)) + "\n")
    return 0


def state(store: Store, systemd: Systemd) -> dict[str, Any]:
    """Whether the node is as its current generation says, and if not, why.

    Returns:
        release, generation, inputs: those of the current generation; empty, 0 and empty before the first.
        drift: reasons, empty when nothing moved.
    """
    with suppress(InputError):
        if (current := store.current()) is not None:
            return {
                "release": current.release, "generation": current.number, "inputs": current.inputs,
                "drift": _drift(store, current, systemd),
            }  # fmt: skip
    return {
        "release": states.release_in_use(store.root),
        "generation": 0,
        "inputs": "",
        "drift": ["no generation was kept yet"],
    }


def _drift(store: Store, current: Generation, systemd: Systemd) -> list[str]:
    found = []
    if (begun := store.begun()) is not None:
        found.append(f"a switch to generation {begun} has not ended")
    if (store.root / units.DRAINED).exists():
        found.append("the edge answers that the node is out of service")
    if moved := tree.differences(tree.scan(store.root), current.entries):
        found.append(f"/{moved[0]} is not as it was kept" + (f", and {len(moved) - 1} more" if len(moved) > 1 else ""))
    if stopped := systemd.inactive(units.wanted(current.entries)):
        found.append(f"{stopped[0]} does not run")
    if stale := [s.service for s in services(store.root) if s.as_written is False]:
        found.append(f"{stale[0]} runs with another configuration than is written")
    found += [str(m) for m in systemd.missed()]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found += checks.changes(store.root, current.release, current.checks, now)
    if not found and (told := _firewall()):
        found.append(told)
    return found


def _firewall() -> str:
    """What is wrong with the firewall; empty when its confirmed rules are in force."""
    from engine.firewall import Firewall  # noqa: PLC0415  slower than the rest

    firewall = Firewall()
    if not firewall.shelf.active_digest():
        return ""  # no firewall belongs to this node yet
    loaded = firewall.in_force()
    return "" if loaded == "active" else f"the firewall's rules in force are {loaded}, not the confirmed ones"


def _state(_asked: argparse.Namespace) -> dict[str, Any]:
    return state(Store(), Systemd())


def _keep(asked: argparse.Namespace) -> dict[str, Any]:
    store = Store()
    with store.exclusive():
        release = states.release_in_use(store.root)
        noted = checks.note(store.root, release, _renewal(asked.renew_before_days))
        if asked.check:
            current = store.current()
            return {"generation": 0, "changed": current is None or current.entries != tree.scan(store.root)}
        kept, changed = store.keep(asked.inputs, noted)
        store.forget_measurements()
    return {"generation": kept.number, "changed": changed}


def _missed(asked: argparse.Namespace) -> dict[str, Any]:
    found = missed.find()
    if found and not asked.check:
        missed.repair(found)
    return {"missed": [str(m) for m in found]}


def _switch(asked: argparse.Namespace) -> dict[str, Any]:
    from engine.generation import switch  # noqa: PLC0415

    store = Store()
    with store.exclusive():
        target = _target(store, asked.to)
        return asdict(switch.switch(store, target, Systemd(), switch.firewall))


def _target(store: Store, to: str) -> Generation:
    if to.isdigit():
        return store.load(int(to))
    if to in ("current", "previous"):
        found = store.current() if to == "current" else store.previous()
        if found is None:
            raise InputError(
                f"this node has no {to} generation", where=str(store.directory), remedy="Install a release first."
            )
        return found
    matching = [g for g in map(store.load, store.numbers()) if g.release == to]
    if not matching:
        raise InputError(
            f"this node keeps no generation of {to}",
            where=str(store.directory),
            remedy=f"It keeps: {', '.join(sorted(store.releases())) or 'none'}.",
        )
    return matching[-1]


def _list(_asked: argparse.Namespace) -> dict[str, Any]:
    return states.listed(Store())


def _prune(asked: argparse.Namespace) -> dict[str, Any]:
    store = Store()
    with store.exclusive():
        return states.drop(store, store.surplus(asked.keep))


def _renewal(days: int) -> str:
    """When the next install would renew the node's certificate."""
    if not CERTIFICATE.is_file():
        return ""
    from cryptography import x509  # noqa: PLC0415  slow to import; only keeping needs it

    end = x509.load_pem_x509_certificate(CERTIFICATE.read_bytes()).not_valid_after_utc
    return (end - timedelta(days=days)).isoformat(timespec="seconds")


_VERBS = {"state": _state, "keep": _keep, "missed": _missed, "switch": _switch, "list": _list, "prune": _prune}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="appliance-engine generation", description="What releases wrote on this node, kept to go back to."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("state", help="whether the node is as its current generation says")
    keep = verbs.add_parser("keep", help="make what is there now the current generation")
    keep.add_argument("--inputs", default="", metavar="DIGEST", help="what the control host made it from")
    keep.add_argument("--renew-before-days", type=int, default=60)
    keep.add_argument("--check", action="store_true", help="only say whether it would make a new one")
    late = verbs.add_parser("missed", help="restart units that run with something older than what is written")
    late.add_argument("--check", action="store_true", help="only name them")
    switch = verbs.add_parser("switch", help="go to another generation")
    switch.add_argument(
        "--to", default="previous", help="its number, a release, `previous` or `current` (undo what came after it)"
    )
    verbs.add_parser("list", help="all that are kept")
    prune = verbs.add_parser("prune", help="remove old ones and what only they need")
    prune.add_argument("--keep", type=int, default=3)
    return parser
