"""What an install asks before it changes anything: preflight's cheap checks, whose failures end the run.

Left out are the disk's speed, the ways out and names of the outside, which take seconds and do not make an install fail. A node that
cannot be asked is left to the install itself, whose connection knows more ways and whose rolling policy says what its absence means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from engine.errors import InputError
from engine.process import ProcessError
from engine.report import Report
from installer.evidence import contents
from installer.site import needs
from installer.site.ansiblelist import inventory_program, not_hosts
from installer.site.events import Failure
from installer.site.inventory import Inventory
from installer.site.preflight import NodeReport, preflight

MIN_REASON = 10  # characters; as for a downgrade


def refusals(inventory: Inventory, view: Path, root: Path, nodes: Iterable[str], report: Report) -> list[Failure]:
    """Why nodes cannot take the release; empty when they can. Warnings are said and pass.

    Args:
        view: directory of the verified release.
        nodes: names of those to ask.
    """
    wanted = needs.release(contents.read(view, root.read_bytes()))
    reports = preflight(inventory, wanted, report, limit=nodes, cheap=True)
    for asked in reports:
        if asked.reboot:
            report.say(f"{asked.node}: {asked.words}: {'; '.join(f.what for f in asked.findings if f.reboot)}")
        for finding in asked.findings:
            if finding.severity == "warn" and asked.facts:
                report.say(f"{asked.node}: {finding.check}: {finding.what}. {finding.remedy}")
    return failures(reports)


def failures(reports: Iterable[NodeReport]) -> list[Failure]:
    """The failures of nodes that could be asked, in the words of an install's report."""
    return [
        Failure(node.node, finding.check, "preflight", f"{finding.what}. {finding.remedy}")
        for node in reports
        for finding in node.findings
        if node.facts and finding.severity == "fail"
    ]


def check_reason(reason: str) -> None:
    """A reason that is kept on record says something.

    Raises:
        InputError: it is shorter than MIN_REASON characters.
    """
    if reason and len(reason.strip()) < MIN_REASON:
        raise InputError(
            "the reason to skip preflight is too short", where="--skip-preflight",
            remedy=f"Write at least {MIN_REASON} characters; it goes into the signed report.",
        )  # fmt: skip


def limited(inventory: Inventory, limit: str) -> list[str]:
    """Names of the nodes that a pattern means, as Ansible understands it; all when it is empty.

    Raises:
        InputError: Ansible does not understand it, or it means no node: a change of nothing would look like one that succeeded.
    """
    if not limit:
        return [h.name for h in inventory.nodes]
    try:
        said = inventory_program(
            "-i", inventory.path, "--list", "--limit", limit, env={**not_hosts(inventory.path), **inventory.vault}
        )
    except ProcessError as error:
        raise InputError(
            f"Ansible does not understand the pattern: {error.stderr.strip()[-300:]}",
            where="--limit",
            remedy="Correct it.",
        ) from error
    named = set(json.loads(said).get("_meta", {}).get("hostvars", {}))
    if not (chosen := [h.name for h in inventory.nodes if h.name in named]):
        raise InputError(
            f"no node of the inventory matches {limit!r}",
            where="--limit",
            remedy=f"It has: {', '.join(h.name for h in inventory.nodes)}.",
        )
    return chosen
