"""All rules on the facts of one node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.preflight import judge_disk, judge_driver, judge_gpu, judge_network, judge_services, judge_system
from engine.preflight.expectation import Expectation, Finding, Rule, fail, good, warn
from engine.preflight.facts import Facts

READY, FIXABLE, UNSUPPORTED = 0, 1, 2

# Parts without which nobody can say that a node is ready; the others are worth a warning.
_NEEDED = ("system", "clock", "storage", "network", "pci", "driver", "nvml")
_REMEDY = "Look at the node by hand, then ask again."


def troubles(facts: Facts, _: Expectation) -> Iterator[Finding]:
    """Parts that could not be looked at."""
    for name, why in sorted(facts.troubles.items()):
        say = fail if name in _NEEDED else warn
        yield say("looked-at", f"{name} could not be looked at: {why}", _REMEDY)
    lost = [n for n in _NEEDED if getattr(facts, n) is None and n not in facts.troubles]
    if lost:
        yield fail("looked-at", f"the node says nothing of {', '.join(lost)}", _REMEDY)
    if not lost and not facts.troubles:
        yield good("looked-at", f"everything, in {facts.seconds:.1f} s")


RULES: tuple[Rule, ...] = (
    troubles, *judge_system.RULES, *judge_disk.RULES, *judge_network.RULES, *judge_driver.RULES, *judge_gpu.RULES,
    *judge_services.RULES,
)  # fmt: skip


def judge(facts: Facts, expected: Expectation) -> tuple[Finding, ...]:
    """What every rule finds, in the order of the rules."""
    return tuple(finding for rule in RULES for finding in rule(facts, expected))


def reboots(findings: Iterable[Finding]) -> bool:
    """Whether the install restarts the node, or waits for somebody to: it brings something that a start puts into force."""
    return any(f.reboot for f in findings)


def verdict(findings: Iterable[Finding]) -> int:
    """READY, FIXABLE or UNSUPPORTED: the worst of all findings."""
    failures = [f for f in findings if f.severity == "fail"]
    if any(not f.supported for f in failures):
        return UNSUPPORTED
    return FIXABLE if failures else READY
