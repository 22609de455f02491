"""`appliance preflight`: ask every node at once, and judge what they say. Changes nothing, here or there."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from engine.errors import InputError
from engine.preflight.expectation import Finding, fail
from engine.preflight.facts import Facts, Question
from engine.preflight.judge import FIXABLE, READY, UNSUPPORTED, judge, reboots, verdict
from engine.report import Report, printable
from installer.site import holds, needs, remote
from installer.site.beacon import listening
from installer.site.inventory import Connection, Host, Inventory
from installer.site.needs import Release
from installer.site.remote import Answer

WORKERS = 32
WORDS = {READY: "ready", FIXABLE: "fixable", UNSUPPORTED: "not supported"}
REBOOT = ", reboot planned"
Ask = Callable[[Connection, Question], Answer]


@dataclass(frozen=True)
class NodeReport:
    """What became of one node. ``facts`` is None when it could not be asked."""

    node: str
    address: str
    findings: tuple[Finding, ...]
    facts: Facts | None

    @property
    def verdict(self) -> int:
        return verdict(self.findings)

    @property
    def words(self) -> str:
        """The verdict for people; a node that is ready and that the install restarts says so."""
        return WORDS[self.verdict] + (REBOOT if self.reboot else "")

    @property
    def reboot(self) -> bool:
        """Whether the install restarts this node, which nothing else keeps from being ready."""
        return self.verdict == READY and reboots(self.findings)

    def data(self) -> dict[str, Any]:
        return {
            "node": self.node, "address": self.address, "verdict": WORDS[self.verdict], "reboot": self.reboot,
            "findings": [asdict(f) for f in self.findings], "facts": asdict(self.facts) if self.facts else None,
        }  # fmt: skip


# Why a node could not be asked: what to say, and what to do.
FAILURES: dict[str, tuple[str, str]] = {
    "unreachable": ("cannot be reached over SSH", "Check that it runs, its address, and the way from this host; then: ssh {address}."),
    "hostkey": ("shows a host key that this host does not know", "Compare its fingerprint at its console, then add it to known_hosts (ssh-keyscan {address}); of a machine that was replaced, remove the old key first (ssh-keygen -R {address})."),
    "login": ("does not let us log in", "Check ansible_user and ansible_ssh_private_key_file, and the node's authorized_keys."),
    "sudo": ("does not let the user become root without a password", "Give the user NOPASSWD in sudoers on the node, or log in as root."),
    "python": ("has no Python where the inventory says", "Install the package python3 from the node's installation medium, or correct ansible_python_interpreter."),
    "old": ("has a Python that is too old", "Install the operating system that the release is for."),
    "unsupported": ("is to be reached in a way that preflight does not know", "Use ssh with keys: preflight sends no passwords."),
    "late": ("did not answer in time", "Look at its load and its disks; a probe that hangs often hangs in a disk or a GPU."),
    "flood": ("answered too much", "Look at what its login shell prints; then at the node itself."),
    "garbled": ("answered what cannot be understood", "Look at what its login shell prints; then at the node itself."),
}  # fmt: skip


def preflight(
    inventory: Inventory,
    wanted: Release,
    report: Report,
    *,
    outside: tuple[tuple[str, int], ...] = needs.OUTSIDE,
    limit: Iterable[str] = (),
    cheap: bool = False,
    today: date | None = None,
    ask: Ask = remote.ask,
) -> tuple[NodeReport, ...]:
    """Ask all nodes of the inventory (or those named in ``limit``) at the same time.

    Args:
        cheap: leave out what takes seconds: the disk's speed, the ways out, names of the outside.

    Raises:
        InputError: ``limit`` names a host that is not in the inventory, or the release lacks a model that the site serves.
    """
    if wanted.contents:
        holds.demand(inventory, wanted.name, wanted.contents.trusted.targets)
    hosts = _hosts(inventory, tuple(limit))
    word, control = secrets.token_hex(16), inventory.site.control
    with (
        listening(control.address, control.port, word) as trouble,
        ThreadPoolExecutor(min(WORKERS, len(hosts))) as pool,
    ):

        def one(host: Host) -> NodeReport:
            question = needs.question(host, wanted, inventory, word=word, listening=not trouble, outside=outside)
            if cheap:
                question = replace(question, outside=(), outside_names=(), disk="")
            answer = ask(inventory.connections.get(host.name, Connection(host.address)), question)
            report.say(f"{host.name}: {'asked' if answer.facts else FAILURES[answer.failure][0]}")
            return _judged(host, wanted, inventory, answer, trouble, today or date.today())

        return tuple(pool.map(one, hosts))


def verdict_of(reports: Iterable[NodeReport]) -> int:
    """The worst of all nodes."""
    return max((r.verdict for r in reports), default=0)


def _hosts(inventory: Inventory, limit: tuple[str, ...]) -> list[Host]:
    nodes = [h for h in inventory.hosts if h.groups != ("control",)]
    unknown = sorted(set(limit) - {h.name for h in nodes})
    if unknown:
        raise InputError(
            f"{unknown[0]} is not in the inventory", where=str(inventory.path),
            remedy=f"It has: {', '.join(h.name for h in nodes)}.",
        )  # fmt: skip
    if not nodes:
        raise InputError("the inventory has no nodes", where=str(inventory.path), remedy="Add hosts to gpu or gateway.")
    return [h for h in nodes if not limit or h.name in limit]


def _judged(host: Host, wanted: Release, inventory: Inventory, answer: Answer, trouble: str, today: date) -> NodeReport:
    if answer.facts is None:
        return NodeReport(host.name, host.address, (_unasked(host, answer),), None)
    expected = needs.expectation(host, wanted, inventory, answer.facts, today)
    expected = replace(expected, offset_s=answer.offset_s, offset_error_s=answer.offset_error_s, depot_trouble=trouble)
    return NodeReport(host.name, host.address, tuple(map(_clean, judge(answer.facts, expected))), answer.facts)


def _unasked(host: Host, answer: Answer) -> Finding:
    what, remedy = FAILURES[answer.failure]
    detail = f": {_last(answer.detail)}" if answer.detail else ""
    found = fail("ssh", f"{what}{detail}", remedy.format(address=host.address), supported=answer.failure != "old")
    return _clean(found)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _clean(finding: Finding) -> Finding:
    """Words of a node reach a terminal: they must not steer it."""
    return replace(finding, what=printable(finding.what, keep=""), remedy=printable(finding.remedy, keep=""))
