"""Compare a bundle on disk with what its metadata vouches for."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Root

from engine import metadata, tree, trust
from engine.blobs import hash_stream
from engine.errors import TrustError
from engine.memory import ANY, Demand, Memory, require_follows
from engine.metadata import Files
from engine.report import Report, Silent, printable
from engine.rootstore import RootStore
from engine.trust import Target, Trusted

SMALL, RUN = 1 << 20, 256  # bytes below which files are hashed in runs, and how many of them are one


@dataclass(frozen=True)
class Finding:
    """One file that is not as signed. ``problem`` is missing, extra, changed, link or unsigned."""

    problem: str
    path: str
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """The outcome: what is signed, and every difference found."""

    trusted: Trusted
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        return not self.findings


def _can_check(root: Root) -> bool:
    """Whether this Python can check the root's own signatures: the starting kit's knows Ed25519 alone."""
    known = importlib.util.find_spec("cryptography") is not None
    return known or all(root.keys[k].keytype == "ed25519" for k in root.roles["root"].keyids)


def open_bundle(bundle: Path, pinned_root: bytes, memory: Memory | None = None, demand: Demand = ANY) -> Trusted:
    """Check the metadata of a bundle directory; with a ``memory`` older bundles than those it knows are refused.

    Raises:
        InputError: not a bundle directory.
        TrustError: the metadata was refused, or something lies beside it that is not part of it.
    """
    files = metadata.read(bundle)
    if strangers := _strangers(files):
        if memory is not None:
            memory.follow(files.roots)  # as when anything else is refused: a revoked key stays revoked
        raise _does_not_belong(strangers[0], bundle)
    trusted, findings = _opened(files, pinned_root, memory, demand)
    if findings:
        raise _does_not_belong(findings[0], bundle)
    return trusted


def _does_not_belong(finding: Finding, bundle: Path) -> TrustError:
    return TrustError(
        f"{finding.path} does not belong to the signed metadata: {finding.detail}",
        where=str(bundle),
        remedy="`appliance verify` lists every such file; copy the bundle again.",
    )


def _strangers(files: Files) -> list[Finding]:
    """What lies in metadata/ and is not metadata."""
    kinds = {"file": "unsigned", "link": "link"}
    details = {"file": "not part of the verified chain"}
    return [
        Finding(
            kinds.get(stranger.kind, "special"),
            printable(f"{metadata.DIRECTORY}/{stranger.name}", keep=""),
            details.get(stranger.kind, "only plain files are allowed"),
        )
        for stranger in files.strangers
    ]


def _opened(
    files: Files, pinned_root: bytes, memory: Memory | None = None, demand: Demand = ANY
) -> tuple[Trusted, list[Finding]]:
    """What the metadata vouches for, and what lies beside it that it does not vouch for."""
    if "targets.json" in files.content and "timestamp.json" not in files.content:
        raise TrustError(
            "the metadata is not complete: the release is not signed yet, or was cut on its way",
            where=files.where,
            remedy="If it is a draft, `appliance sign` adds signatures; else copy it again.",
        )
    fetcher = trust.FilesFetcher(files.content)
    if memory is not None:
        trusted = memory.refresh(fetcher, "file://", demand, files.where)
    else:
        with tempfile.TemporaryDirectory(prefix="appliance-trust-") as fresh:
            trusted = trust.refresh(
                fetcher=fetcher, url="file://", state=Path(fresh), pinned_root=pinned_root, where=files.where
            )
    chain, findings = _chain(files, trusted, pinned_root)
    findings += _strangers(files)
    patches = {n: d for n, d in files.content.items() if n == metadata.PATCHES}
    return replace(trusted, metadata={**chain, **trusted.metadata, **patches}), findings


def verify(
    bundle: Path, pinned_root: bytes, *, report: Report | None = None, roots: RootStore | None = None
) -> Verification:
    """Check signatures first, then every file of the bundle against them.

    Args:
        roots: roots that were verified from ``pinned_root`` before; new ones are stored there.

    Raises:
        TrustError: the metadata itself was refused; no content was read then.
    """
    trusted, unsigned = opened(bundle, pinned_root, roots)
    outcome = compare(bundle, trusted, report)
    return Verification(trusted, tuple(sorted((*outcome.findings, *unsigned), key=lambda f: (f.path, f.problem))))


def opened(bundle: Path, pinned_root: bytes, roots: RootStore | None = None) -> tuple[Trusted, list[Finding]]:
    """As ``open_bundle``, with what does not belong to the metadata as findings instead of a refusal.

    Raises:
        InputError, TrustError: as ``open_bundle``.
    """
    files = metadata.read(bundle)
    try:
        trusted, findings = _opened(files, roots.newest(pinned_root) if roots else pinned_root)
    finally:
        if roots:
            roots.keep(pinned_root, files.roots)
    if metadata.PATCHES in trusted.metadata:
        findings.append(
            Finding("unsigned", f"{metadata.DIRECTORY}/{metadata.PATCHES}", "not part of the verified chain")
        )
    return trusted, findings


def _chain(files: Files, trusted: Trusted, pinned_root: bytes) -> tuple[dict[str, bytes], list[Finding]]:
    """The roots that lead to the one in force, and those that are not what they should be.

    The client reads those after the pinned one alone. One before it cannot be proven by it, but must lead to it.
    """
    good: dict[str, bytes] = {}
    findings, after = [], None
    for version, data in sorted(files.roots.items(), reverse=True):
        name = metadata.root_name(version)
        if version > trusted.root_version:
            findings.append(Finding("unsigned", f"{metadata.DIRECTORY}/{name}", "not part of the verified chain"))
            continue
        try:
            _require_root(data, version, after, pinned_root)
            good[name] = data
        except Exception as error:  # python-tuf raises many types on malformed input
            detail = printable(f"not the root of this chain: {error}")
            findings.append(Finding("changed", f"{metadata.DIRECTORY}/{name}", detail))
        after = data
    return good, findings


def _require_root(data: bytes, version: int, after: bytes | None, pinned_root: bytes) -> None:
    """Root ``version`` parses, is signed by its own threshold, leads to ``after``, and is the pinned one if it has its version."""
    own, pinned = (Metadata[Root].from_bytes(d) for d in (data, pinned_root))
    if own.signed.version != version:
        raise TrustError(f"it says that it is version {own.signed.version}")
    if version < pinned.signed.version and not _can_check(own.signed):
        return
    own.signed.verify_delegate("root", own.signed_bytes, own.signatures)
    if version == pinned.signed.version and own.signed_bytes != pinned.signed_bytes:
        raise TrustError("it is not the pinned one")
    if after is not None:
        require_follows(data, after, version + 1)


def compare(bundle: Path, trusted: Trusted, report: Report | None = None) -> Verification:
    """Every difference between the directory and a list of files; metadata/ is not looked at."""
    report = report or Silent()
    present, findings = {}, []
    for entry in tree.walk(bundle):
        head = entry.path.partition("/")[0]
        if head == metadata.DIRECTORY:
            continue  # judged by whoever read it
        if entry.kind != "file":
            findings.append(
                Finding(
                    "link" if entry.kind == "link" else "special",
                    printable(entry.path, keep=""),
                    "only plain files are allowed",
                )
            )
        elif entry.path in trusted.targets:
            present[entry.path] = entry.size
        else:
            findings.append(Finding("extra", printable(entry.path, keep=""), "no signature covers it"))
    bad = {f.path for f in findings}
    to_hash = []
    for path, target in trusted.targets.items():
        if path in bad:
            continue
        if path not in present:
            findings.append(Finding("missing", path))
        elif present[path] != target.size:
            findings.append(Finding("changed", path, f"{present[path]} bytes, signed {target.size}"))
        else:
            to_hash.append(target)
    findings.extend(hash_targets(lambda t: tree.open_beneath(bundle, t.path), to_hash, report))
    return Verification(trusted, tuple(sorted(findings, key=lambda f: (f.path, f.problem))))


def hash_targets(opener: Callable[[Target], object], targets: Iterable[Target], report: Report) -> list[Finding]:
    """Hash files in parallel (hashlib lets go of the interpreter lock) and name those that differ."""
    wanted = sorted(targets, key=lambda t: -t.size)
    report.begin("verify", sum(t.size for t in wanted))

    def one(target: Target) -> Finding | None:
        try:
            with opener(target) as file:  # type: ignore[attr-defined]
                sha256, _ = hash_stream(file, lambda n: report.advance("verify", n))
        except (OSError, TrustError) as error:
            return Finding("changed", target.path, f"cannot be read: {error}")
        return (
            None
            if sha256 == target.sha256
            else Finding("changed", target.path, f"SHA-256 is {sha256}, signed {target.sha256}")
        )

    def several(run: list[Target]) -> list[Finding]:
        return [f for f in map(one, run) if f]

    with ThreadPoolExecutor(os.cpu_count() or 2) as workers:
        findings = [f for found in workers.map(several, _runs(wanted)) for f in found]
    report.end("verify")
    return findings


def _runs(targets: list[Target]) -> Iterator[list[Target]]:
    """Work for one thread at a time, largest first: a large file alone, small ones in runs, whose handing over would
    else cost more than their hashing."""
    run: list[Target] = []
    for target in targets:
        run.append(target)
        if target.size >= SMALL or len(run) == RUN:
            yield run
            run = []
    if run:
        yield run
