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
from typing import Protocol

from engine.blobs import Blobs
from engine.download import Downloader, Item
from engine.report import Report, Silent
from installer.definition import Definition
from installer.lockfile import Artifact
from installer.network import host
from installer.network.connections import Connections
from installer.network.host import Network


@dataclass(frozen=True)
class Work:
    """What every verb may use.

    Attributes:
        base: directory of the definition; relative paths in it start there.
        cache: verified files by SHA-256, kept between builds.
        epoch: seconds since 1970 for every time that gets into content, so that two builds give the same bytes.
        apt_key: armored, passphrase-protected OpenPGP secret key that signs the apt repository, and the file with its passphrase.
        reach: how this host reaches sources; it is looked at when a verb asks for the first time where it is not given.
    """

    definition: Definition
    base: Path
    cache: Blobs
    report: Report = field(default_factory=Silent)
    epoch: int = 0
    apt_key: tuple[Path, Path] | None = None
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
    """Link every artifact from the cache to its path below ``content``."""
    for artifact in artifacts:
        work.cache.link(artifact.sha256, content / artifact.path)
