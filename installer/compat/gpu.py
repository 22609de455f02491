"""GPU models against driver branch, flavour of kernel modules, and MIG profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from installer.compat.facts import Facts, Finding, branch
from installer.compat.tables import (
    BEFORE_OPEN,
    GPUS,
    LAST_BEFORE_OPEN,
    MIG,
    NEEDS_OPEN,
    OPEN_ONLY_FROM,
    MigTable,
)


def known(facts: Facts) -> Iterator[Finding]:
    """Every model is in the table; what is not cannot be checked."""
    for model in facts.target.gpu.models if facts.target.gpu else ():
        if model not in GPUS:
            yield Finding(
                "gpu-model", "warning", f"the GPU model {model} is not known; driver, modules, code and MIG were not checked for it",
                f"Known are: {', '.join(GPUS)}.",
            )  # fmt: skip


def modules(facts: Facts) -> Iterator[Finding]:
    """The flavour of kernel modules exists in the branch and drives every model."""
    if not (gpu := facts.target.gpu):
        return
    number = branch(gpu.driver)
    if gpu.kernel_modules == "proprietary" and number >= OPEN_ONLY_FROM:
        yield Finding(
            "kernel-modules", "failure", f"branch {number} has no proprietary kernel modules; they ended with the branch before {OPEN_ONLY_FROM}",
            "Set target.gpu.kernel_modules to open, or take an older branch.",
        )  # fmt: skip
    for model in gpu.models:
        if not (row := GPUS.get(model)):
            continue
        if row.architecture in BEFORE_OPEN and gpu.kernel_modules == "open":
            yield Finding(
                "kernel-modules", "failure", f"{model} ({row.architecture}) is older than Turing; the open kernel modules do not drive it",
                "Set target.gpu.kernel_modules to proprietary.",
            )  # fmt: skip
        if row.architecture in NEEDS_OPEN and gpu.kernel_modules == "proprietary":
            yield Finding(
                "kernel-modules", "failure", f"{model} ({row.architecture}) is driven by the open kernel modules only",
                "Set target.gpu.kernel_modules to open.",
            )  # fmt: skip


def branches(facts: Facts) -> Iterator[Finding]:
    """The branch is not too old for a model, and has not dropped it."""
    if not (gpu := facts.target.gpu):
        return
    number = branch(gpu.driver)
    for model in gpu.models:
        if not (row := GPUS.get(model)):
            continue
        if row.architecture in BEFORE_OPEN and number > LAST_BEFORE_OPEN:
            yield Finding(
                "gpu-branch", "failure", f"branch {number} no longer drives {model} ({row.architecture}); {LAST_BEFORE_OPEN} was the last",
                f"Take a driver of branch {LAST_BEFORE_OPEN}.",
            )  # fmt: skip
        elif number < row.needs_branch:
            yield Finding(
                "gpu-branch", "failure", f"{model} needs a driver of branch {row.needs_branch} or newer; target.gpu.driver is {gpu.driver}",
                f"Take a driver of branch {row.needs_branch} or newer.",
            )  # fmt: skip


def processor(facts: Facts) -> Iterator[Finding]:
    """GPUs that are one board with their processor stand in nodes with that processor."""
    for model in facts.target.gpu.models if facts.target.gpu else ():
        row = GPUS.get(model)
        if row and row.processor and row.processor != facts.target.arch:
            yield Finding(
                "gpu-processor", "failure", f"{model} comes with {row.processor} processors only, target.arch is {facts.target.arch}",
                "Correct target.arch or target.gpu.models.",
            )  # fmt: skip


def mig(facts: Facts) -> Iterator[Finding]:
    """Every MIG profile exists on every model, and one GPU has room for all of them.

    Room is counted in compute and memory slices and instances of a profile. Positions are not laid out, so a very
    mixed choice that passes here can still be refused by the driver.
    """
    gpu = facts.target.gpu
    for model in gpu.models if gpu and gpu.mig else ():
        if not gpu or not (row := GPUS.get(model)):
            continue
        if not row.mig:
            yield Finding(
                "mig-profile", "failure", f"{model} cannot be divided with MIG, but target.gpu.mig asks for {', '.join(gpu.mig)}",
                "Remove target.gpu.mig, or take GPUs that have it.",
            )  # fmt: skip
            continue
        table = MIG[row.mig]
        if strange := sorted(set(gpu.mig) - set(table.profiles)):
            yield Finding(
                "mig-profile", "failure", f"{model} has no MIG profile {', '.join(strange)}",
                f"It has: {', '.join(table.profiles)}.",
            )  # fmt: skip
        elif much := over(table, Counter(gpu.mig)):
            yield Finding("mig-room", "failure", f"{model}: {much}", "Ask for fewer or smaller instances.")


def over(table: MigTable, wanted: Counter[str]) -> str:
    """What one GPU has too little of; empty when everything fits."""
    for profile, count in sorted(wanted.items()):
        most = table.profiles[profile][2]
        if count > most:
            return f"{count} instances of {profile} are asked for, one GPU has {most}"
    compute = sum(table.profiles[p][0] * n for p, n in wanted.items())
    memory = sum(table.profiles[p][1] * n for p, n in wanted.items())
    if compute > table.compute or memory > table.memory:
        return f"the MIG instances take {compute} of {table.compute} compute slices and {memory} of {table.memory} memory slices"
    if sum(n for p, n in wanted.items() if "+me" in p) > 1:
        return "only one instance of a GPU can have the media engines (+me)"
    return ""
