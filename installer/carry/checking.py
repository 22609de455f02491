"""What `verify` says of a delta: which files its patches and a depot make up for."""

from __future__ import annotations

from pathlib import Path

from engine import tree
from engine.blobs import Blobs
from engine.report import Report, Silent
from engine.verify import Finding, Verification, hash_targets
from installer.carry import patches
from installer.carry.patches import Patch
from installer.carry.patchnames import LIST


def checked(
    bundle: Path, outcome: Verification, blobs: Blobs | None = None, report: Report | None = None
) -> Verification:
    """The outcome with patches looked at: each is compared with its signed list, and a file that one makes is not missed
    where ``blobs`` has what it is made from.

    Raises:
        TrustError: the list of patches is not signed.
    """
    listed = {p.path: p for p in patches.read(outcome.trusted)}
    lying = {f.path for f in outcome.findings if f.problem == "extra"}
    there = [p for path, p in listed.items() if path in lying]
    bad = hash_targets(lambda t: tree.open_beneath(bundle, t.path), [p.file for p in there], report or Silent())
    good = {p.target: p for p in there if p.path not in {f.path for f in bad}}
    signed = {LIST, *listed} if listed else set()
    findings = [f for f in outcome.findings if f.path not in signed]
    findings += [*bad, *(Finding("missing", path) for path in listed if path not in lying)]
    wrong = {f.path for f in findings}
    here = {t.sha256 for path, t in outcome.trusted.targets.items() if path not in wrong}
    for patch in listed.values():  # in the order in which one may be made of what another made
        based = patch.base in here or (blobs and blobs.has(patch.base, patch.base_size))
        if blobs and based and patch.target in good:
            here.add(patch.target)
    told = [_missing(f, outcome, here, good, blobs) if f.problem == "missing" else f for f in findings]
    return Verification(outcome.trusted, tuple(sorted((f for f in told if f), key=lambda f: (f.path, f.problem))))


def _missing(
    finding: Finding, outcome: Verification, here: set[str], good: dict[str, Patch], blobs: Blobs | None
) -> Finding | None:
    """A missing file, with what there is to say about it; None when it will be there."""
    target = outcome.trusted.targets.get(finding.path)
    if target is None:
        return finding
    if blobs and (target.sha256 in here or blobs.has(target.sha256, target.size)):
        return None
    patch = good.get(target.sha256)
    if patch is None:
        return finding
    lack = "which the depot lacks" if blobs else "which a depot has to have (--depot)"
    return Finding(
        "missing",
        finding.path,
        f"a patch makes it from {patch.base_path} of {patch.base_release} (SHA-256 {patch.base}), {lack}",
    )
