"""Write all evidence of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from installer.evidence import imagefiles, licences, provenance, sbom
from installer.kinds import Work
from installer.lockfile import Lock

DIRECTORIES = ("licences", "provenance", "sbom")


def write(
    lock: Lock, work: Work, content: Path, *, builder: str = provenance.BUILDER, made: Mapping[str, str] | None = None
) -> None:
    """Write all evidence. The same lock and the same files give the same bytes.

    Args:
        builder: the builder's URI.
        made: SHA-256 by path of what the builder made out of artifacts.

    Raises:
        TrustError: an NVIDIA package carries no licence text, so it may not be passed on; or a package or an image's layer
            is damaged, or larger inside than an honest one can be.
    """
    inside = imagefiles.read(lock, work)
    licences.write(lock, work, content, inside)
    provenance.write(lock, content, builder=builder, made=made or {})
    sbom.write(work.definition, lock, content, work.epoch, inside)
