"""All rules on one lock; the thin edge between lock files and facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from engine.errors import InputError
from installer.compat import compiler, cuda, dcgm, driver, gpu, models, platform
from installer.compat.facts import Advice, Deb, Facts, Finding, Rule, Wheel
from installer.definition import Definition
from installer.intake import ADVICE
from installer.kinds import debevidence
from installer.lockfile import Artifact, Lock

# The order in which a person reads them: what cannot load at all comes first.
RULES: tuple[Rule, ...] = (
    platform.supported, platform.wheels, platform.debs, platform.python,
    gpu.known, gpu.processor, gpu.branches, gpu.modules, gpu.mig,
    cuda.driver, cuda.supported, cuda.skew, cuda.bindings, cuda.machine_code, cuda.dropped, cuda.flashinfer, compiler.at_first_start,
    driver.duplicates, driver.one_version, driver.fabric, driver.subnet, driver.kernel, driver.secure_boot, dcgm.pair,
    models.files, models.chat_template,
)  # fmt: skip


def check(facts: Facts) -> tuple[Finding, ...]:
    """What every rule finds, failures first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(found, key=lambda f: f.severity != "failure"))


def gather(definition: Definition, lock: Lock, today: date) -> Facts:
    """The facts of a definition and its lock."""
    return Facts(
        definition.target,
        tuple(_wheel(a) for a in lock.artifacts if a.path.endswith(".whl")),
        tuple(
            Deb(a.name, a.version, a.path.removesuffix(".deb").rpartition("_")[2], a.profiles)
            for a in lock.of_kind("debs")
            if not debevidence.is_evidence(a)
        ),
        today,
        tuple(dict.fromkeys(a for artifact in lock.of_kind("models") for a in _advice(artifact))),
        frozenset(w.name for w in definition.wheels if w.compiler),
    )


def _advice(artifact: Artifact) -> Iterator[Advice]:
    for note in artifact.notes:
        rule, colon, what = note.removeprefix(ADVICE).partition(": ")
        if note.startswith(ADVICE) and colon:
            yield Advice(artifact.group, rule, what)


def _wheel(artifact: Artifact) -> Wheel:
    try:
        tags = parse_wheel_filename(artifact.path.rsplit("/", 1)[-1])[3]
    except InvalidWheelFilename:
        tags = frozenset()
    group = artifact.group if artifact.kind == "wheels" else f"{artifact.kind}/{artifact.group}"
    triples = tuple(sorted((t.interpreter, t.abi, t.platform) for t in tags))
    return Wheel(group, canonicalize_name(artifact.name), artifact.version, triples, artifact.profiles)


def require(findings: Iterable[Finding], where: str) -> None:
    """Refuse when anything failed.

    Raises:
        InputError: one line a failure, each with its remedy.
    """
    failures = [f for f in findings if f.severity == "failure"]
    if failures:
        raise InputError(
            f"{len(failures)} choices cannot work together:\n"
            + "\n".join(f"  {f.rule}: {f.what}. {f.remedy}" for f in failures),
            where=where,
            remedy="Correct the definition and lock again; docs/compatibility.md explains every rule.",
        )
