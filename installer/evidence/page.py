"""One self-contained page about a bundle, for people who decide whether it may cross. No script, no address, all text escaped.

It is made from the signed metadata after the release was signed, so it can say who signed. It is not part of the bundle, and nobody
signs it: who decides by it checks the bundle with `appliance verify`, which names the same keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import installer
from engine.report import printable
from installer.cli.screen import size
from installer.evidence import licenceview, provenance, remarks
from installer.evidence.contents import Contents
from installer.evidence.update import Update
from installer.kinds import debevidence
from installer.lockfile import KIND_ORDER, Artifact, Lock
from installer.trust.sign import content_digest

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "installer": "Installer's own wheels", "wheels": "Python wheels", "debs": "Debian packages", "images": "Container images",
    "models": "Models", "files": "Files",
}  # fmt: skip
ROLES = {
    "targets": "the list of files: the release itself", "snapshot": "that the metadata files belong together",
    "timestamp": "that this is the newest", "root": "which keys may do what",
}  # fmt: skip
EVIDENCE = "What the vendors signed: package indexes and keys"


def render(
    contents: Contents,
    update: Update | None = None,
    *,
    refused: Sequence[tuple[str, str]] = (),
    names: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML; the same arguments give the same bytes.

    Args:
        update: what the release changes against an earlier one; None says that no earlier one is known here.
        refused: bundles beside it that could not be compared, each with the reason.
        names: of keys, by their ids, from the reader's own key files.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": size, "grown": grown, "time": signing_time, "debian": debian}
    licences = licenceview.by_path(contents.lock, contents.licences)
    components = licenceview.of(contents.lock, licences)
    spdx_names, debian_names = licenceview.named(components)
    html = environment.get_template("page.html.j2").render(
        c=contents,
        product=contents.product,
        about=_about(contents.definition),
        names=names or {},
        roles=ROLES,
        kind_names=KINDS,
        update=update,
        refused=refused,
        components=components,
        states=licenceview.counted(components),
        unknown=[c for c in components if c.state == "unknown"],
        unclassified=[c for c in components if c.state == "unclassified"],
        words=[c for c in components if c.state == "words"],
        licences=spdx_names,
        debian_names=debian_names,
        by_path=licences,
        ask=licenceview.paths(contents.licences, "ask_before_redistribution"),
        remarks=remarks.of(contents.lock),
        kinds=_kinds(contents.lock),
        default_builder=provenance.BUILDER,
        made_by=installer.__version__,
        digest=content_digest({t.path: t.sha256 for t in contents.trusted.targets.values()}),
    )
    return printable(html) + "\n"


def grown(n_bytes: int) -> str:
    """A difference of sizes in bytes, for people, with its sign."""
    return ("+" if n_bytes > 0 else "\N{MINUS SIGN}" if n_bytes < 0 else "±") + size(abs(n_bytes))


def debian(expression: str) -> str:
    """An expression of a Debian copyright file with the names that SPDX does not have in quotes, without their prefix."""
    return re.sub(re.escape(licenceview.OWN_NAMES) + r"([A-Za-z0-9.-]+)", r"“\1”", expression)


def signing_time(version: int) -> str:
    """The time in UTC that a version is: releases are numbered by the second in which they were signed (decision 0002)."""
    try:
        return f"{datetime.fromtimestamp(version, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return "not a time"


def _about(definition: Mapping[str, Any]) -> dict[str, str]:
    """Description and target, of a definition that may be a draft's and in no form that is known."""
    target = definition.get("target")
    told = target if isinstance(target, dict) else {}
    return {
        "description": str(definition.get("description") or "An offline bundle."),
        **{k: str(told.get(k) or "unknown") for k in ("os", "arch", "python")},
    }


def _kinds(lock: Lock) -> list[tuple[str, list[Artifact], int]]:
    """Artifacts by what they are, in the order of the lock's kinds, with the bytes of all; vendors' evidence last."""
    rows = [(KINDS[k], [a for a in lock.of_kind(k) if not debevidence.is_evidence(a)]) for k in KIND_ORDER]
    rows.append((EVIDENCE, [a for a in lock.artifacts if debevidence.is_evidence(a)]))
    return [(title, mine, sum(a.size for a in mine)) for title, mine in rows if mine]
