"""What sshd has in force, by its own word (``sshd -T``), not by what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.baseline.outcome import Outcome, not_applicable, of_faults
from engine.process import run

SSHD = "/usr/sbin/sshd"


def sshd(want: Mapping[str, Any]) -> Outcome:
    """``want``: option to ``{equals: …}``, ``{within: [...]}`` (every algorithm is one of these) or ``{most: N}``."""
    if not Path(SSHD).exists():
        return not_applicable("there is no sshd")
    said = run([SSHD, "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"], timeout_s=30, package="openssh-server")
    found = effective(said.stdout)
    faults = []
    for option, rule in want.items():
        values = found.get(option.lower(), [])
        faults += _faults(option, values, rule)
    return of_faults(faults, "; ".join(f"{o} {','.join(found.get(o.lower(), []))[:60]}" for o in want))


def effective(said: str) -> dict[str, list[str]]:
    """Option to its values; an option that stands on several lines (AllowGroups) has them all."""
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        option, _, value = line.partition(" ")
        found.setdefault(option, []).append(value.strip())
    return found


def _faults(option: str, values: list[str], rule: Mapping[str, Any]) -> list[str]:
    if not values:
        return [f"{option} is not set"]
    if "within" in rule:
        extra = sorted(set(",".join(values).split(",")) - set(rule["within"]))
        return [f"{option} lets in {', '.join(extra)}"] if extra else []
    if "most" in rule:
        number = int(values[0])
        return [f"{option} is {number}, at most {rule['most']}"] if not 0 < number <= rule["most"] else []
    wanted = rule["equals"]
    if isinstance(wanted, list):
        return (
            [] if sorted(values) == sorted(wanted) else [f"{option} is {' '.join(values)}, wanted {' '.join(wanted)}"]
        )
    return [] if values == [str(wanted)] else [f"{option} is {' '.join(values)}, wanted {wanted}"]


CHECKS = {"sshd": sshd}
