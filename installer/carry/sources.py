"""Where in a bundle, whole or delta, the contents lie that a depot lacks: as files, or in patches of what it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from engine import metadata, tree
from engine.blobs import Blobs
from engine.errors import TrustError
from engine.report import printable
from engine.trust import Target, Trusted
from installer.carry.patches import Patch, extended


@dataclass(frozen=True)
class Sources:
    """One file or one patch of the bundle for each missing content."""

    files: list[Target]
    patches: list[Patch]

    @property
    def size(self) -> int:
        """Bytes that are copied."""
        return sum(t.size for t in self.files) + sum(p.size for p in self.patches)

    @property
    def rebuilt(self) -> int:
        """Bytes that patches make."""
        return sum(p.target_size for p in self.patches)


def find(bundle: Path, trusted: Trusted, missing: list[Target], patches: Iterable[Patch], blobs: Blobs) -> Sources:
    """Look for each missing content.

    Args:
        patches: the bundle's signed list of them.
        blobs: what the depot has.

    Raises:
        TrustError: a file is not as signed or signed by nobody, or a content is in neither place; nothing was copied.
    """
    trusted = extended(trusted, patches)
    present = {e.path: e for e in tree.walk(bundle) if not e.path.startswith(f"{metadata.DIRECTORY}/")}
    wrong = [
        p
        for p, e in present.items()
        if e.kind != "file" or (p in trusted.targets and e.size != trusted.targets[p].size)
    ]
    extra = [p for p in present if p not in trusted.targets]
    for what, paths in (("not as signed", wrong), ("covered by no signature", extra)):
        if paths:
            raise TrustError(
                f"{len(paths)} files are {what}, first {printable(sorted(paths)[0], keep='')}",
                where=str(bundle),
                remedy="`appliance verify` lists every such file; copy the bundle again.",
            )
    files = {t.sha256: t for t in missing if t.path in present}
    rest = [t for t in missing if t.sha256 not in files]
    usable = [p for p in patches if p.path in present]
    wanted, coming, steps = {t.sha256 for t in rest}, set(files), []
    for patch in usable:  # in the order in which one may be made of what another made
        if patch.target in wanted and (patch.base in coming or blobs.has(patch.base, patch.base_size)):
            coming.add(patch.target)
            steps.append(patch)
    if lacking := [t for t in rest if t.sha256 not in coming]:
        refuse_lacking(bundle, lacking, usable, blobs)
    return Sources(list(files.values()), steps)


def refuse_lacking(bundle: Path, lacking: Sequence[Target], patches: Iterable[Patch], blobs: Blobs) -> NoReturn:
    """Say what is in no place, or which file of which release a patch needs that is not here.

    Args:
        lacking: what is missed; the same content may be there under several paths.
        patches: those that are here.

    Raises:
        TrustError: always.
    """
    contents = {t.sha256: t for t in lacking}
    made = {p.target for p in patches}
    baseless = [
        p for p in patches if p.target in contents and p.base not in made and not blobs.has(p.base, p.base_size)
    ]
    if baseless:
        first = min(baseless, key=lambda p: p.base_path)
        raise TrustError(
            f"{len(baseless)} patches are for files that the depot does not have, first {printable(first.base_path, '')} "
            f"of {printable(first.base_release, '')} ({first.base_size:,} bytes, SHA-256 {first.base})",
            where=str(bundle),
            remedy="Have the delta made from this site's receipt (`appliance receipt`), or without --patch.",
        )
    raise TrustError(
        f"{len(contents)} files ({sum(t.size for t in contents.values()):,} bytes) are neither in the bundle nor in the "
        f"depot, first {min(t.path for t in contents.values())}",
        where=str(bundle),
        remedy="A whole bundle was cut on its way: copy it again. A delta was made for another base: "
        "make it from this site's receipt (`appliance receipt`). `appliance verify --depot` lists every such file.",
    )
