"""Where in a bundle, whole or delta, the contents lie that a depot lacks."""

from __future__ import annotations

from pathlib import Path

from engine import tree
from engine.errors import TrustError
from engine.report import printable
from engine.trust import Target, Trusted


def sources(bundle: Path, trusted: Trusted, missing: list[Target]) -> list[Target]:
    """One file of the bundle for each missing content.

    Raises:
        TrustError: a file is not as signed or signed by nobody, or a content is in neither place; nothing was copied.
    """
    present = {e.path: e for e in tree.walk(bundle)}
    wrong = [
        p
        for p, e in present.items()
        if e.kind != "file" or (p in trusted.targets and e.size != trusted.targets[p].size)
    ]
    extra = [p for p in present if p not in trusted.targets and not p.startswith("metadata/")]
    for what, paths in (("not as signed", wrong), ("covered by no signature", extra)):
        if paths:
            raise TrustError(
                f"{len(paths)} files are {what}, first {printable(sorted(paths)[0], keep='')}",
                where=str(bundle),
                remedy="`appliance verify` lists every such file; copy the bundle again.",
            )
    sources = {t.sha256: t for t in missing if t.path in present}
    lacking = {t.sha256: t for t in missing if t.sha256 not in sources}.values()
    if lacking:
        raise TrustError(
            f"{len(lacking)} files ({sum(t.size for t in lacking):,} bytes) are neither in the bundle nor in the depot, "
            f"first {min(t.path for t in lacking)}",
            where=str(bundle),
            remedy="A whole bundle was cut on its way: copy it again. A delta was made for another base: "
            "make it from this site's receipt (`appliance receipt`). `appliance verify --depot` lists every such file.",
        )
    return list(sources.values())
