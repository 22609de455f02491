"""`appliance check`, and the same proof before `lock` writes and `build` fetches."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from installer.cli.options import screen_of
from installer.cli.screen import Screen

if TYPE_CHECKING:
    from installer.compat.facts import Finding
    from installer.definition import Definition
    from installer.lockfile import Lock


UNVERIFIED = "driver-packages"  # the rule that finds nothing to look at


def check(
    ctx: typer.Context,
    definition_file: Annotated[Path, typer.Argument(help="Definition, bundles/NAME.yml.", metavar="DEFINITION")],
) -> None:
    """Prove on the lock that the choices of a definition can work together.

    Compares driver, CUDA, GPUs, MIG, kernel, Secure Boot, operating system, Python and processor. Shows everything
    at once; exit code 2 when something cannot work. `lock` and `build` run the same rules; docs/compatibility.md
    lists them with their sources.

    \b
    Examples:
      appliance check bundles/gpu-debian-13.yml
      appliance check bundles/gpu-debian-13.yml --json
    """
    from engine.errors import Exit, InputError
    from installer import definition, lockfile

    screen = screen_of(ctx)
    parsed = definition.load(definition_file)
    locked = lockfile.load(lockfile.path_of(definition_file), parsed)
    findings = _findings(parsed, locked)
    failures = sum(f.severity == "failure" for f in findings)
    data = _data(definition_file, locked, findings)
    verdict = f"{len(findings) - failures} warnings" if findings else "nothing to remark"
    if failures:
        screen.result(data, _table(findings))
        if not screen.json_output:
            wrong = f"{failures} choices cannot work together"
            screen.error(InputError(wrong, where=str(definition_file), remedy="Correct the definition and lock again."))
        raise typer.Exit(Exit.USAGE)
    if findings and not screen.json_output:
        screen.show(_table(findings))
    unverified = any(f.rule == UNVERIFIED for f in findings)
    words = "holds nothing that does not fit together, and its driver is unverified" if unverified else "fits together"
    screen.result(data, f"{parsed.release} {words}: {len(locked.artifacts)} artifacts, {verdict}")


def prove(screen: Screen, definition_file: Path, definition: Definition, lock: Lock, *, again: bool = False) -> None:
    """Say every finding on the error stream and refuse when one is a failure.

    Args:
        again: `lock` has said the warnings in full; one line says how to read them again.

    Raises:
        InputError: with every failure and its remedy.
        Exit: with --json, after the findings were printed as `appliance check` prints them.
    """
    from engine.errors import Exit
    from installer.compat.check import require

    findings = _findings(definition, lock)
    warnings = [f for f in findings if f.severity == "warning"]
    if again and warnings:
        rules = ", ".join(dict.fromkeys(f.rule for f in warnings))
        screen.say(f"warning: {rules}: `appliance check {shlex.quote(str(definition_file))}` says it in full")
    elif warnings:
        for finding in warnings:
            screen.say(f"warning: {finding.rule}: {finding.what}. {finding.remedy}")
    if screen.json_output and any(f.severity == "failure" for f in findings):
        screen.result(_data(definition_file, lock, findings))
        raise typer.Exit(Exit.USAGE)
    require(findings, str(definition_file))


def _findings(definition: Definition, lock: Lock) -> tuple[Finding, ...]:
    from datetime import UTC, datetime

    from installer.compat.check import check, gather

    return check(gather(definition, lock, datetime.now(UTC).date()))


def _data(definition_file: Path, lock: Lock, findings: tuple[Finding, ...]) -> dict[str, Any]:
    return {
        "definition": str(definition_file),
        "good": not any(f.severity == "failure" for f in findings),
        "verified": not any(f.rule == UNVERIFIED for f in findings),
        "artifacts": len(lock.artifacts),
        "findings": [vars(f) for f in findings],
    }


def _table(findings: tuple[Finding, ...]) -> Any:
    from installer.cli.tables import Table

    table = Table("", "rule", "what", "remedy")
    for finding in findings:
        table.add_row(finding.severity, finding.rule, finding.what, finding.remedy)
    return table
