"""What `appliance install` says at its end, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from installer.cli.nextstep import Word, command, given
from installer.cli.options import DEFAULT_CA
from installer.cli.screen import seconds
from installer.cli.tables import Table
from installer.site import waysout
from installer.site.steps import words_of

if TYPE_CHECKING:
    from installer.site.install import Outcome
    from installer.site.inventory import Inventory


def page(outcome: Outcome) -> Group:
    """The result of an install for people."""
    table = Table("node", "ok", "changed", "outcome")
    failed = {f.node for f in outcome.failures}
    done = "would change" if outcome.check else "changed"
    for name, node in outcome.nodes.items():
        word = (
            "failed"
            if name in failed
            else "waiting"
            if name in outcome.waiting
            else done
            if node["changed"]
            else "unchanged"
        )
        table.add_row(name, str(node["ok"]), str(node["changed"]), word)
    lines = [*_failures(outcome), *_waiting(outcome), *_proof(outcome), *_went_back(outcome), *_end(outcome)]
    return Group(table, *map(Text, lines))


def _failures(outcome: Outcome) -> Iterator[str]:
    for failure in outcome.failures:
        state = "is unreachable" if failure.unreachable else "failed"
        step = f"{words_of(failure.role)}: " if failure.role else ""
        yield f"\n{failure.node} {state} in “{step}{failure.task}”:\n  {failure.reason}"


def _waiting(outcome: Outcome) -> Iterator[str]:
    for node, why in outcome.waiting.items():
        yield f"{node} waits and serves what it had: {why}"


def _proof(outcome: Outcome) -> Iterator[str]:
    """What was measured: tokens through mutual TLS, refusals without a certificate, and refused ways out."""
    for proof in outcome.proof:
        state = "answered through mutual TLS" if proof.good else "DID NOT PROVE ITSELF"
        refused = "refused" if proof.refused_without_certificate else "NOT REFUSED"
        yield f"{proof.gateway}/{proof.service}: {state} in {proof.seconds} s; without a certificate it was {refused}"
        if proof.remark:
            yield f"{proof.gateway}/{proof.service}: {proof.remark}"
    for ways in outcome.egress:
        yield waysout.line(ways, datetime.now(UTC))


def _went_back(outcome: Outcome) -> Iterator[str]:
    if not outcome.rollout:
        return
    for name, back in outcome.rollout.restored.items():
        kept = back.diagnostics or "no diagnostics"
        served = f"{name} serves {back.release} again, {back.seconds} s after it failed; it keeps {kept}"
        yield served if back.good else f"{name} IS OUT OF SERVICE: {back.failure}"
    if outcome.rollout.left_alone:
        yield f"left as they are: {', '.join(outcome.rollout.left_alone)}: {outcome.rollout.stopped}"


def _end(outcome: Outcome) -> Iterator[str]:
    """How it ended, in a line or two."""
    if outcome.failures and not outcome.log:
        yield "\nNothing was changed on any node. Fix the cause and run the same command again; `appliance preflight` shows all."
    elif outcome.failures:
        yield f"\nlog: {outcome.log}\nFix the cause and run the same command again; what is done stays done."
    elif outcome.check:
        for name, node in outcome.nodes.items():
            if node.get("nothing_yet"):
                yield f"{name}: nothing is installed yet, so this dry run shows its first steps alone; all of the release would be new"
        yield f"{outcome.release}: a dry run; nothing was changed"
    elif not outcome.good:
        yield f"{outcome.release}: NOT INSTALLED on every node, or not proved; the lines above say what is wrong"
    elif outcome.waiting:
        yield f"{outcome.release}: {len(outcome.waiting)} of {len(outcome.nodes)} nodes wait for their maintenance window; run the same command again in it"
    elif not outcome.changed:
        yield f"{outcome.release}: nothing changed"
    else:
        yield f"{outcome.release}: installed in {seconds(outcome.phases_s.get('total', 0))}"


def following(outcome: Outcome, site: Inventory, same: tuple[Word, ...], ca: Path, inventory: Path) -> list[str]:
    """What comes after an install that ended well. ``same`` are the words that would repeat it."""
    if outcome.check:
        return [command("install", *same)]
    if outcome.rollout and outcome.rollout.paused:
        return [command("install", *same, "--continue")]
    look = command("status", "-i", inventory, *given("--ca", ca, DEFAULT_CA))
    if not site.site.services or not outcome.changed:
        return [look]
    issue = command("certs", "client", "NAME", "--out", "DIRECTORY", *given("--dir", ca, DEFAULT_CA))
    return [f"{issue} for a client", f"{look} to see how the nodes are"]
