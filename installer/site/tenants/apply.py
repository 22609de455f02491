"""`appliance tenants apply` and `report`: the gateway host gets who may ask, and is asked what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.errors import NodeError
from installer.site import nodes
from installer.site.events import Listener, Tracker
from installer.site.inventory import Inventory
from installer.site.lock import exclusive
from installer.site.plan import file_change
from installer.site.playbooks import Playbooks
from installer.site.tenants.manage import required
from installer.site.tenants.placing import placed
from installer.site.tenants.render import STATE

PLAYBOOK = "tenants.yml"
CONFIGURATION = "/etc/appliance/gateway/gateway.yml"
PROGRAM = "/opt/appliance/current/gateway/bin/appliance-gateway"
REPORT_S = 600.0


@dataclass(frozen=True)
class Applied:
    """What became of the gateway host. ``differences`` are by path; empty for an encrypted file."""

    node: str
    changed: bool
    differences: Mapping[str, str]
    log: str


def apply(inventory: Inventory, runs: Path, listener: Listener, *, check: bool = False) -> Applied:
    """Bring the configuration to the gateway host, where it is in force within a second. ``check`` changes nothing.

    Raises:
        InputError: the site has no tenants.
        NodeError: the gateway host cannot be reached, or it refuses; what was in force still is.
    """
    rendered = required(inventory)
    (host,) = inventory.in_group("gateway")
    run_dir = runs / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    runs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive(runs):
        run_dir.mkdir(mode=0o700)
        tracker = Tracker([host.name], listener, conceal=inventory.conceal)
        with placed(rendered, run_dir) as files:
            # The templates of other roles' variables name a release; none of them is used here.
            told = {
                "appliance_release": "none",
                "appliance_site": inventory.handed(),
                "appliance_gateway_told": {"encrypted": rendered.encrypted},
            }
            Playbooks(inventory, run_dir, {**told, **files}, tracker, check, not rendered.encrypted).run(
                PLAYBOOK, [host.name]
            )
    log = str(run_dir / "ansible.log")
    if tracker.failures:
        failure = tracker.failures[0]
        raise NodeError(
            f"{failure.task}: {failure.reason}", where=host.name, remedy=f"The log is {log}; nothing else was changed."
        )
    state = tracker.nodes[host.name]
    shown = {path: file_change(path, before, after).diff for path, (before, after) in sorted(state.diffs.items())}
    return Applied(host.name, state.changed > 0, shown, log)


def report(inventory: Inventory, since: str = "", until: str = "") -> dict[str, Any]:
    """Totals of the audit log on the gateway host: requests, tokens and cost by tenant, project, cost centre and model.

    Raises:
        InputError: the site has no tenants.
        NodeError: the gateway host does not answer, or has no audit log.
    """
    required(inventory)
    (host,) = inventory.in_group("gateway")
    words = [
        "audit",
        "report",
        f"--directory={STATE}/audit",
        f"--config={CONFIGURATION}",
        f"--since={since}",
        f"--until={until}",
    ]
    reply = nodes.call(nodes.connection(inventory, host), words, timeout_s=REPORT_S, engine=PROGRAM)
    if reply.data is None:
        raise NodeError(reply.failure, where=host.name, remedy="Install the site first, or look at the gateway host.")
    return reply.data
