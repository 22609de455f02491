"""What a vendor signed when packages were locked: kept as artifacts, so that the gap can check it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.download import Item
from engine.errors import TrustError
from installer.kinds import Work, debaudit
from installer.kinds.apt import Apt, Index, Package
from installer.lockfile import Artifact

PREFIX = f"debs/{debaudit.EVIDENCE}"
COMPRESSIONS = (".xz", ".gz", "")  # smallest first; the first that the vendor signed is kept
# Auditors look at it on the control host; no other node fetches it.
PROFILES = ("control",)


@dataclass(frozen=True)
class _File:
    """A file of evidence before it has a hash in the lock."""

    path: str
    url: str
    local: Path | None = None  # None: to be downloaded
    sha256: str = ""
    size: int = 0
    notes: tuple[str, ...] = ()


def is_evidence(artifact: Artifact) -> bool:
    """Whether an artifact of the kind ``debs`` is evidence, not a package."""
    return artifact.path.startswith(PREFIX)


def collect(work: Work, session: Apt, packages: Sequence[Package]) -> list[Artifact]:
    """Bring the evidence for the packages into the cache and describe it.

    One index for each package is enough: a package in several suites is the same bytes.

    Raises:
        TrustError: a package is in no signed index, or no keyring of the session verifies a source.
        UpstreamError: the vendor does not serve an index that it signed.
    """
    used = _indexes_of(packages, session.indexes())
    found: list[Artifact] = []
    for base in sorted({i.base_uri for i in used}):
        indexes = [i for i in used if i.base_uri == base]
        files = _files(indexes, session)
        artifacts = [_artifact(f, base) for f in files]
        work.downloader().fetch_all(_items(files, artifacts), task="debs: evidence")
        found += artifacts
    return found


def slug(base_uri: str) -> str:
    """A directory name for a source: its address without characters that need escaping."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", base_uri.partition(":")[2]).strip("_")


def _indexes_of(packages: Sequence[Package], indexes: Iterable[Index]) -> list[Index]:
    open_ = {p.sha256: p for p in packages}
    used: list[Index] = []
    for index in indexes:
        listed = set(re.findall(rb"^SHA256: ([0-9a-f]{64})$", index.file.read_bytes(), re.MULTILINE))
        here = [s for s, p in open_.items() if s.encode() in listed and p.url.startswith(index.repo_uri)]
        if here:
            used.append(index)
        for sha256 in here:
            del open_[sha256]
    if open_:
        package = next(iter(open_.values()))
        raise TrustError(
            "debs: no signed index lists a package that apt chose",
            where=package.url,
            remedy="Lock again; report it if it stays.",
        )
    return used


def _files(indexes: Sequence[Index], session: Apt) -> list[_File]:
    base, place = indexes[0].base_uri, f"{PREFIX}{slug(indexes[0].base_uri)}/"
    signed = {n: f for n in debaudit.SIGNED if (f := indexes[0].beside(n)).exists()}
    names = ["InRelease"] if "InRelease" in signed else ["Release", "Release.gpg"]
    if any(n not in signed for n in names):
        raise TrustError("debs: the source is not signed", where=base, remedy="Use a source that is.")
    signature = signed[names[1]] if len(names) > 1 else None
    for keyring in session.keyrings_used():
        if answer := debaudit.verified(keyring, signed[names[0]], signature):
            break
    else:
        raise TrustError(
            "debs: apt accepts the source, and none of its keyrings verifies it with gpgv",
            where=base,
            remedy="Name the keyring as a file: Signed-By in the builder's apt, or signed_by in the definition.",
        )
    text, signers = answer
    notes = (f"signed {debaudit.field(text, 'Date')} by {' '.join(signers)}",)
    files = [_File(f"{place}{n}", base + n, signed[n].resolve(), notes=notes) for n in names]
    files.append(_File(f"{place}keyring{keyring.suffix or '.gpg'}", keyring.resolve().as_uri(), keyring.resolve()))
    listed = debaudit.hashes_of(text)
    by_hash = debaudit.field(text, "Acquire-By-Hash") == "yes"
    for index in indexes:
        name = next((index.meta_key + c for c in COMPRESSIONS if index.meta_key + c in listed), None)
        if name is None:
            raise TrustError(f"debs: the vendor's Release has no SHA-256 of {index.meta_key}", where=base, remedy="Use another source.")  # fmt: skip
        sha256, size = listed[name]
        at = str(PurePosixPath(name).parent / "by-hash/SHA256" / sha256) if by_hash else name
        files.append(_File(f"{place}{name}", base + at, None, sha256, size))
    return files


def _artifact(file: _File, base: str) -> Artifact:
    data = file.local.read_bytes() if file.local else b""
    return Artifact(
        path=file.path, kind="debs", group="evidence", name=slug(base), size=len(data) if file.local else file.size,
        sha256=hashlib.sha256(data).hexdigest() if file.local else file.sha256, source=file.url, notes=file.notes,
        profiles=PROFILES,
    )  # fmt: skip


def _items(files: Sequence[_File], artifacts: Sequence[Artifact]) -> list[Item]:
    """What apt has read already comes from its lists: the vendor may publish anew between two reads."""
    pairs = zip(files, artifacts, strict=True)
    return [Item(a.path, f.local.as_uri() if f.local else a.source, a.sha256, a.size) for f, a in pairs]
