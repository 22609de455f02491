"""Kinds of content. Each is one module with the same four verbs; a new kind is a new file and one line here.

- ``resolve(work)``: definition to artifacts; asks the outside, downloads only what it must read.
- ``fetch(work, artifacts)``: brings locked artifacts into the cache, every hash checked; raises if upstream changed.
- ``check(work, artifacts)``: refuses what must not cross the gap, reading files from the cache.
- ``lay_out(work, artifacts, content)``: places the artifacts below ``content`` and writes the index files of the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from engine.blobs import Blobs
from engine.download import Downloader, Item
from engine.errors import TrustError
from engine.report import Report, Silent
from installer.definition import Definition
from installer.lockfile import Artifact
from installer.network import host
from installer.network.connections import Connections
from installer.network.host import Network

# What the pins of wheel sets are to `lock`: the law; where to start from, while they are written; or nothing but old bytes to compare.
Pinning = Literal["obey", "keep", "upgrade"]


@dataclass(frozen=True)
class Work:
    """What every verb may use.

    Attributes:
        base: directory of the definition; relative paths in it start there.
        cache: verified files by SHA-256, kept between builds.
        epoch: seconds since 1970 for every time that gets into content, so that two builds give the same bytes.
        packages: Debian packages that are locked already; resolving wheels asks which interpreter is among them.
        apt_key: armored, passphrase-protected OpenPGP secret key that signs the apt repository, and the file with its passphrase.
        pinning: how pins of wheels count; see `appliance lock --write-pins`.
        reach: how this host reaches sources; it is looked at when a verb asks for the first time where it is not given.
    """

    definition: Definition
    base: Path
    cache: Blobs
    report: Report = field(default_factory=Silent)
    epoch: int = 0
    apt_key: tuple[Path, Path] | None = None
    packages: tuple[Artifact, ...] = ()
    pinning: Pinning = "obey"
    reach: Network | None = None

    @cached_property
    def network(self) -> Network:
        """How this host reaches sources."""
        return self.reach or host.read()

    def downloader(self) -> Downloader:
        return Downloader(self.cache, report=self.report, route=Connections(self.network))


class KindModule(Protocol):
    """The four verbs."""

    def resolve(self, work: Work) -> list[Artifact]: ...

    def fetch(self, work: Work, artifacts: Sequence[Artifact]) -> None: ...

    def check(self, work: Work, artifacts: Sequence[Artifact]) -> None: ...

    def lay_out(self, work: Work, artifacts: Sequence[Artifact], content: Path) -> None: ...


def items(artifacts: Sequence[Artifact]) -> list[Item]:
    """Artifacts as the downloader wants them."""
    return [Item(a.path, a.source, a.sha256, a.size) for a in artifacts]


def place(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    """Every artifact from the cache at its path below ``content``: a link, or a copy where links cannot be.

    Raises:
        TrustError: the cache's disk rotted; the damaged file is removed.
    """
    for artifact in artifacts:
        link(work, artifact, content / artifact.path)


def link(work: Work, artifact: Artifact, destination: Path) -> None:
    """One artifact from the cache at ``destination``, as ``place`` does it."""
    try:
        work.cache.link(artifact.sha256, destination)
    except TrustError as error:
        raise damaged(work, artifact) from error


def damaged(work: Work, artifact: Artifact) -> TrustError:
    """Take a file out of the cache that is not what its name says; the error to raise."""
    work.cache.path(artifact.sha256).unlink(missing_ok=True)
    return TrustError(
        "the builder's cache holds damaged content",
        where=artifact.path,
        remedy="It was removed; run the same command again.",
    )
