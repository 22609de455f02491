"""`appliance rollback`: nodes of a site back to a release that they keep, batch by batch, with proof at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import durable
from engine.report import Report
from installer.site import nodes, prove, rolling
from installer.site.aim import Aim, aim
from installer.site.inventory import Host, Inventory
from installer.site.ledger import Ledger
from installer.site.lock import exclusive
from installer.site.rollback import Restored, restore
from installer.site.rollout import absences, policy, services
from installer.trust import envelope

LIST_TIMEOUT_S = 60.0
REPORT = "application/vnd.appliance.rollback+json"


@dataclass
class GoneBack:
    """The record of a rollback. ``aims`` says from and to which state each node goes. ``refused`` are nodes that keep no such state; nothing was changed on any when there is one."""

    to: str
    started: str
    nodes: dict[str, Restored] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    aims: dict[str, Aim] = field(default_factory=dict)
    stopped: str = ""
    proof: list[prove.Proof] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return (
            not self.refused
            and not self.stopped
            and all(n.good for n in self.nodes.values())
            and all(p.good for p in self.proof)
        )

    def data(self) -> dict[str, Any]:
        """As it is printed and sealed."""
        return {**asdict(self), "good": self.good}


@dataclass(frozen=True)
class Site:
    """Where the control host keeps what a rollback needs."""

    inventory: Inventory
    ca_dir: Path
    ca_passphrase: Path
    runs: Path
    site_keys: Path


def go_back(
    site: Site, chosen: Sequence[str], to: str, report: Report, *, check: bool = False, at_once: bool = False
) -> GoneBack:
    """Switch the chosen nodes to ``to``, a release, the number of a generation, or ``previous``: the release before.

    Args:
        at_once: all nodes together instead of the site's batches, for when the service is down anyway.

    Raises:
        ResourceError: an install runs.
    """
    begin = time.monotonic()
    made = GoneBack(to, datetime.now(UTC).isoformat(timespec="seconds"))
    inventory = site.inventory
    hosts = [h for h in inventory.nodes if h.name in chosen]
    site.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(site.runs):
        made.aims, made.refused = _aims(inventory, hosts, to)
        for name, found in made.aims.items():
            report.say(f"{name}: runs {found.now}, goes to {found.to}; {found.difference}".removesuffix("; "))
        if made.refused or check:
            return made
        ledger, rules = Ledger(site.runs), policy(inventory.site.rolling)
        for batch in _batches(inventory, hosts, rules, at_once):
            leaving = {n: services(inventory, n) for n in batch}
            out = absences(inventory, ledger)
            if not at_once and (why := rolling.obstacle(batch, leaving, out, rules, len(inventory.nodes))):
                made.stopped = why
                break
            ledger.take_out(leaving, f"going back to {to}")
            _switch(inventory, batch, made, ledger, report)
            if not at_once and any(not made.nodes[n].good for n in batch):
                made.stopped = "a node did not come back; the others are left as they are"
                break
        if inventory.site.services and not made.stopped:
            made.proof = prove.all_services(inventory, site.ca_dir, site.ca_passphrase)
        made.seconds = round(time.monotonic() - begin, 1)
        _seal(site, made)
    return made


def _aims(inventory: Inventory, hosts: Sequence[Host], to: str) -> tuple[dict[str, Aim], dict[str, str]]:
    """Where each node would go; and the nodes that cannot, with the reason."""
    aims, refused = {}, {}
    for name, reply in nodes.call_all(inventory, hosts, ["generation", "list"], timeout_s=LIST_TIMEOUT_S).items():
        found = Aim(why=reply.failure) if reply.data is None else aim(reply.data, to)
        if found.to is None:
            refused[name] = found.why
        else:
            aims[name] = found
    return aims, refused


def _batches(
    inventory: Inventory, hosts: Sequence[Host], rules: rolling.Policy, at_once: bool
) -> tuple[tuple[str, ...], ...]:
    names = [h.name for h in hosts]
    if at_once:
        return (tuple(names),)
    leaving = {n: services(inventory, n) for n in names}
    return rolling.plan(names, leaving, rules, len(inventory.nodes)).batches


def _switch(inventory: Inventory, batch: Sequence[str], made: GoneBack, ledger: Ledger, report: Report) -> None:
    hosts = [h for h in inventory.nodes if h.name in batch]
    to = {n: str(found.to.number) for n, found in made.aims.items() if found.to}
    ask: Callable[[Host], Restored] = lambda host: restore(inventory, host, to[host.name])  # noqa: E731
    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        for done in pool.map(ask, hosts):
            made.nodes[done.node] = done
            if done.good:
                ledger.bring_back([done.node])
                report.say(
                    f"{done.node}: serves {done.release}, switched in {done.switched_s} s, back after {done.seconds} s"
                )
            else:
                ledger.explain(done.node, done.failure)
                report.say(f"{done.node}: FAILED {done.failure}")


def _seal(site: Site, made: GoneBack) -> None:
    place = site.runs / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    place.mkdir(mode=0o700, parents=True)
    text = json.dumps(made.data(), indent=1, default=str) + "\n"
    durable.write(place / "rollback.json", text, mode=0o600)
    passphrase = site.ca_passphrase.read_text()
    envelope.seal(text, REPORT, place / "rollback.dsse.json", envelope.site_key(site.site_keys, passphrase), passphrase)
