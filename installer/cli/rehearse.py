"""`appliance rehearse`: prove that a bundle lacks nothing, before it is carried."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.bundle import pinned_root
from installer.cli.options import screen_of

if TYPE_CHECKING:
    from installer.cli.screen import Screen
    from installer.definition import Definition
    from installer.lockfile import Lock
    from installer.rehearse.rehearse import Rehearsal, Request
    from installer.trust.keys import KeyStore

SHOWN = 20  # attempts, or lines of a journal, that are printed; --json has all
SHOWN_LINE = 300  # characters


def rehearse(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Bundle directory, NAME-VERSION.", metavar="BUNDLE")],
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="Inventory whose nodes to copy; else one node that is everything."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Pinned root of trust (root.json). Never take it from the bundle.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="On the builder: take root.json from this key directory.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Without an inventory: the model to serve; the bundle's first otherwise.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the nodes running and say how to reach them.")] = False,
) -> None:
    """Install a bundle on throw-away nodes that reach nothing but this host, and see whether anything is missing.

    Boots systemd-nspawn nodes with the inventory's names, groups and variables and the definition's operating system, runs the
    real install with an authority, a depot and keys of its own, and asks every service for an answer. Every system call of the nodes
    that names an address outside or looks up a name is seen; one that nobody expects fails the rehearsal (exit code 1) and is named
    with its process. What could not be rehearsed here, such as serving on GPUs, is said. Needs root.

    \b
    Examples:
      appliance rehearse dist/demo-1.0.0
      appliance rehearse -i ./site dist/ours-1.0.0 --json
    """
    from installer.rehearse.rehearse import Request

    screen = screen_of(ctx)
    pinned, _ = pinned_root(root, keys)
    with screen:
        done = carry_out(screen, Request(bundle, pinned, inventory, model, keep))
    screen.result(document(done), lines(done))
    if not done.good:
        from engine.errors import Exit

        raise typer.Exit(Exit.FAILED)


def carry_out(screen: Screen, request: Request) -> Rehearsal:
    """Rehearse with each node's steps on the screen."""
    from installer.cli.install import listener
    from installer.rehearse.rehearse import rehearse as run

    return run(request, screen, listener(screen))


def require_possible(
    definition: Definition, lock: Lock, inventory: Path | None, keys: KeyStore, passphrase: str
) -> None:
    """Refuse before the first download what could not be rehearsed afterwards.

    Raises:
        InputError: the lab cannot make such nodes, the inventory is wrong, or the release will be a draft, which cannot be verified.
        ResourceError: this machine lacks something.
    """
    from engine.errors import InputError
    from installer.rehearse.rehearse import planned

    planned(definition, lock, inventory)
    for role in ("targets", "snapshot", "timestamp"):
        if len(keys.signers(role, passphrase)) < keys.root().roles[role].threshold:
            raise InputError(
                "the release will need signatures of others, and what is not fully signed cannot be rehearsed",
                where=f"role {role}",
                remedy="Build without --rehearse; when all have signed: appliance rehearse BUNDLE",
            )


def demand(screen: Screen, staging: Path, keys: KeyStore, inventory: Path | None) -> Rehearsal:
    """The rehearsal of a bundle that is not done yet.

    Raises:
        typer.Exit: it failed; everything about it was said.
    """
    from engine.errors import ApplianceError, Exit
    from installer.rehearse.rehearse import Request

    done = carry_out(screen, Request(staging, keys.root_bytes(), inventory))
    if not done.good:
        why = f"the rehearsal failed, so there is no bundle: {reason(done)}"
        screen.result({"bundle": None, "release": done.release, "why": why, "rehearsal": document(done)}, lines(done))
        if not screen.json_output:
            remedy = "Fix the definition, lock it and build again."
            screen.error(ApplianceError(why, where=done.release, remedy=remedy))
        raise typer.Exit(Exit.FAILED)
    return done


def reason(done: Rehearsal) -> str:
    """The first thing that a person should know of a failed rehearsal, in a sentence."""
    from installer.site.steps import words_of

    for node, causes in done.causes.items():
        for cause in causes:
            return f"{node}: {cause.what}. {cause.remedy}"
    for attempt in done.verdict.attempts:
        return f"{attempt.node}: {attempt.process} ({attempt.unit}) wanted {attempt.target}"
    for failure in done.outcome.failures:
        return f"{failure.node}, {words_of(failure.role)}: {failure.task}: {failure.reason}"
    for unproved in [
        *(f"{p.gateway}/{p.service} did not prove itself: {p.answer}" for p in done.outcome.proof if not p.good),
        *(f"{w.node} is not proved shut: {w.problems[0]}" for w in done.outcome.egress if w.measured and not w.good),
    ]:
        return unproved
    for node, why in done.unresolved.items():
        return f"{node}: packages cannot be installed: {why}"
    return "; ".join(done.verdict.blind) or f"{done.unseen_packets} packets left the nodes unseen"


def document(done: Rehearsal) -> dict[str, Any]:
    """The result for programs."""
    return {
        "release": done.release,
        "good": done.good,
        "complete": done.complete,
        "rehearsed": done.rehearsed,
        "not_rehearsed": done.not_rehearsed,
        "nodes": done.nodes,
        "attempts": [
            {**asdict(a), "time": _time(a.first), "target": a.target} for a in done.verdict.attempts
        ],
        "excused": dict(done.verdict.excused),
        "blind": done.verdict.blind,
        "unseen_packets": done.unseen_packets,
        "unresolved_packages": done.unresolved,
        "failures": [asdict(f) for f in done.outcome.failures],
        "said": done.said,
        "causes": {node: [asdict(c) for c in found] for node, found in done.causes.items()},
        "proof": [asdict(p) for p in done.outcome.proof],
        "egress": [asdict(w) for w in done.outcome.egress],
        "seconds": done.seconds,
        "phases_s": done.outcome.phases_s,
        "kept": done.kept,
    }  # fmt: skip


def lines(done: Rehearsal) -> str:
    """The result for people."""
    from installer.site.steps import task_words, words_of

    said = [f"{'ok      ' if done.good else 'reached '}{what}" for what in done.rehearsed]
    said += [f"left out {what}" for what in done.not_rehearsed]
    for failure in done.outcome.failures:
        said.append(
            f"\n{failure.node} failed in “{words_of(failure.role) + ': ' if failure.role else ''}{failure.task}”:\n  {failure.reason}"
        )
    said += [f"\n{p.gateway}/{p.service} did not prove itself: {p.answer}" for p in done.outcome.proof if not p.good]
    said += [
        f"\n{w.node} is not proved shut: {'; '.join(w.problems[:3])}"
        for w in done.outcome.egress
        if w.measured and not w.good
    ]
    said += [
        f"\n{node}: packages of the definition cannot be installed:\n  {why}" for node, why in done.unresolved.items()
    ]
    for node, causes in done.causes.items():
        if not causes:
            said.append(f"\n{node}: for a reason not known here; its services' last words:")
            said += [f"  {line[:SHOWN_LINE]}" for line in done.said[node].splitlines()[-SHOWN:]]
        said += [f"\n{node}: {c.what}\n  it said: {c.line}\n  {c.remedy}" for c in causes]
    said += [f"\nthe watch was blind: {reason}" for reason in done.verdict.blind]
    if done.unseen_packets:
        said.append(
            f"\n{done.unseen_packets} packets left the nodes for elsewhere, and no system call for them was seen"
        )
    if done.verdict.attempts:
        said.append(f"\n{len(done.verdict.attempts)} attempts to reach out:")
    for a in done.verdict.attempts[:SHOWN]:
        said.append(
            f"  {_time(a.first)} {a.node} {a.unit or 'no unit'}: {a.process} wanted {a.target}, {a.times} time{'s' if a.times > 1 else ''}\n"
            f"    command: {a.command}\n    during: {task_words(a.during) or 'before the install'}"
        )
    if len(done.verdict.attempts) > SHOWN:
        said.append(f"  and {len(done.verdict.attempts) - SHOWN} more; --json has all")
    if done.verdict.attempts:
        said.append(
            "  Add what they fetch to the definition, or turn off what asks: there is nobody to answer inside. A flow that the site\n"
            "  allows on purpose belongs into egress of its site.yml."
        )
    said.append("")
    if done.kept:
        said += ["The nodes stay:", *(f"  {command}" for command in done.kept.values())]
    good = "nothing was missing, and nothing tried to reach out"
    what = (good if done.complete else f"in what was rehearsed {good}") if done.good else "THE REHEARSAL FAILED"
    rest = "" if done.complete else "; NOT REHEARSED: what is named above"
    said.append(f"{done.release}: {what}{rest} ({done.seconds} s)")
    return "\n".join(said).lstrip("\n")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S.%f")[:-3] + "Z"
