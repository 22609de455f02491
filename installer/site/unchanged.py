"""Which nodes need nothing: their last install was made from the same inputs, and nothing has moved there since.

One question to every node decides it (`appliance-engine generation state`), where Ansible would ask hundreds. What the question does not
see is in docs/operations.md; `install --full` and `install --check` always look with the roles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import metadata
from engine.report import Report
from installer import product
from installer.site import nodes
from installer.site.inventory import Host, Inventory
from installer.site.nodes import Reply

TIMEOUT_S = 60.0
STATE = ("generation", "state")
TENANTS = "appliance_gateway_told"
POLICIES = ("rolling", "gate", "keep_generations")


@dataclass(frozen=True)
class NodeNow:
    """What a node said of itself. ``release`` is empty and ``generation`` 0 when nothing is installed; ``new`` is a node that answered and has
    no engine, as a new machine does."""

    node: str
    release: str = ""
    generation: int = 0
    inputs: str = ""
    drift: tuple[str, ...] = ()
    reached: bool = True
    new: bool = False

    def needs_nothing(self, release: str, inputs: str) -> bool:
        """Whether an install of ``release`` from ``inputs`` would find everything done."""
        return self.generation > 0 and (self.release, self.inputs) == (release, inputs) and not self.drift


def ask(inventory: Inventory, hosts: Iterable[Host]) -> dict[str, NodeNow]:
    """The state of nodes, all at once. A node without an engine or without an answer needs everything."""
    replies = nodes.call_all(inventory, hosts, STATE, timeout_s=TIMEOUT_S)
    return {name: understand(name, reply) for name, reply in replies.items()}


def understand(name: str, reply: Reply) -> NodeNow:
    """A node's answer; whatever is not as it should be counts as drift. Pure."""
    told = reply.data
    if told is None:
        return NodeNow(name, drift=(reply.failure,), reached=reply.reached, new=reply.absent)
    try:
        drift = tuple(str(d)[:300] for d in told["drift"])
        return NodeNow(name, str(told["release"]), int(told["generation"]), str(told["inputs"]), drift)
    except (LookupError, TypeError, ValueError):
        return NodeNow(name, drift=("its answer cannot be understood",))


def inputs(inventory: Inventory, variables: Mapping[str, Any], view: Path, ca_dir: Path) -> dict[str, str]:
    """Digest of everything that an install of a node is made from, by node.

    Args:
        variables: of the whole site, those that differ from run to run left out.
        view: directory of the verified release; its signed metadata stands for its content.
    """
    common, mine = hashlib.sha256(), variables
    for name in ("roles", "playbooks"):
        base = product.data(name)
        for path in sorted(
            p for p in base.rglob("*") if p.is_file() and "molecule" not in p.parts and p.suffix != ".pyc"
        ):
            common.update(f"{name}/{path.relative_to(base)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    listed = metadata.load(view, "targets.json")
    common.update(b"none" if listed is None else hashlib.sha256(listed).digest())
    for path in (ca_dir / "ca.crt", ca_dir / "crl.pem"):
        common.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"none")
    # How a change walks through the nodes is no part of what it makes of them.
    variables = {k: v for k, v in variables.items() if k not in ("appliance_site", TENANTS)}
    site = inventory.site.model_dump(mode="json", exclude=set(POLICIES))
    variables["appliance_site"] = site
    everyone = [(h.name, h.address, h.groups) for h in inventory.hosts]
    common.update(json.dumps([variables, everyone], sort_keys=True, default=str).encode())
    made = {}
    for host in inventory.nodes:
        own = common.copy()
        own.update(json.dumps([host.name, _told(inventory, host)], sort_keys=True, default=str).encode())
        if TENANTS in mine:  # a new key is no reason to look at GPU nodes
            wanted = mine[TENANTS] if "gateway" in host.groups else mine[TENANTS]["endpoints"]
            own.update(json.dumps(wanted, sort_keys=True).encode())
        made[host.name] = own.hexdigest()
    return made


def _told(inventory: Inventory, host: Host) -> dict[str, Any]:
    """What the inventory says of one host alone."""
    return {k: v for k, v in inventory.variables.get(host.name, {}).items() if k != "appliance_site"}


def tell(report: Report, now: Mapping[str, NodeNow], idle: Iterable[str]) -> None:
    """Say what was found."""
    for name in idle:
        report.say(f"{name}: as it was left, nothing to do")
    for name, node in now.items():
        if node.generation and node.drift and node.reached:
            report.say(f"{name}: {'; '.join(node.drift)}")
