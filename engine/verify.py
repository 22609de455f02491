"""Compare a bundle on disk with what its metadata vouches for."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Root

from engine import tree, trust
from engine.blobs import hash_stream
from engine.errors import InputError, TrustError
from engine.memory import ANY, Demand, Memory, require_follows
from engine.report import Report, Silent, printable
from engine.trust import Target, Trusted

SMALL, RUN = 1 << 20, 256  # bytes below which files are hashed in runs, and how many of them are one
METADATA = frozenset({"timestamp.json", "snapshot.json", "targets.json"})


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
        TrustError: the metadata was refused.
    """
    if not bundle.exists():
        raise InputError("there is no such bundle", where=str(bundle), remedy="Correct the path.")
    if not (bundle / "metadata").is_dir() or (bundle / "metadata").is_symlink():
        raise InputError(
            "not a bundle: there is no metadata directory",
            where=str(bundle),
            remedy="Give the directory NAME-VERSION that `appliance build bundle` made.",
        )
    if (bundle / "metadata/targets.json").exists() and not (bundle / "metadata/timestamp.json").exists():
        raise TrustError(
            "the metadata is not complete: the release is not signed yet, or was cut on its way",
            where=str(bundle),
            remedy="If it is a draft, `appliance sign` adds signatures; else copy it again.",
        )
    fetcher = trust.DirectoryFetcher(bundle)
    if memory is not None:
        return memory.refresh(fetcher, "file://", demand, str(bundle))
    with tempfile.TemporaryDirectory(prefix="appliance-trust-") as fresh:
        return trust.refresh(
            fetcher=fetcher, url="file://", state=Path(fresh), pinned_root=pinned_root, where=str(bundle)
        )


def verify(bundle: Path, pinned_root: bytes, *, report: Report | None = None) -> Verification:
    """Check signatures first, then every file of the bundle against them.

    Raises:
        TrustError: the metadata itself was refused; no content was read then.
    """
    outcome = compare(bundle, open_bundle(bundle, pinned_root), report)
    bad = {f.path for f in outcome.findings}
    found = [f for f in roots(bundle, outcome.trusted, pinned_root) if f.path not in bad]
    return Verification(outcome.trusted, tuple(sorted((*outcome.findings, *found), key=lambda f: (f.path, f.problem))))


def roots(bundle: Path, trusted: Trusted, pinned_root: bytes) -> list[Finding]:
    """Roots in the bundle that are not what they should be.

    The client reads those after the pinned one alone. One before it cannot be proven by it, but must lead to it.
    """
    names = {int(e.path.split(".")[0]): e.path for e in tree.walk(bundle / "metadata") if _in_chain(e.path, trusted)}
    findings, after = [], None
    for version, name in sorted(names.items(), reverse=True):
        with tree.open_beneath(bundle, f"metadata/{name}") as file:
            data = file.read(trust.CONFIG.root_max_length + 1)
        try:
            _require_root(data, version, after, pinned_root)
        except Exception as error:  # python-tuf raises many types on malformed input
            findings.append(Finding("changed", f"metadata/{name}", printable(f"not the root of this chain: {error}")))
        after = data
    return findings


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
    """Every difference between the directory and a list of files."""
    report = report or Silent()
    present, findings = {}, []
    for entry in tree.walk(bundle):
        head, _, rest = entry.path.partition("/")
        if entry.kind != "file":
            findings.append(
                Finding(
                    "link" if entry.kind == "link" else "special",
                    printable(entry.path, keep=""),
                    "only plain files are allowed",
                )
            )
        elif head == "metadata":
            findings.extend(metadata_finding(rest, trusted))
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


def metadata_finding(name: str, trusted: Trusted) -> list[Finding]:
    """A file below metadata/ is one of the fixed names or a root of the chain, else nobody signed it."""
    return (
        []
        if name in METADATA or _in_chain(name, trusted)
        else [Finding("unsigned", printable(f"metadata/{name}", keep=""), "not part of the verified chain")]
    )


def _in_chain(name: str, trusted: Trusted) -> bool:
    version, _, rest = name.partition(".")
    return (
        rest == "root.json" and version.isdecimal() and len(version) < 7 and 1 <= int(version) <= trusted.root_version
    )


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
