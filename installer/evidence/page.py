"""One self-contained page about a bundle, for people who decide whether it may cross. No script, no address, all text escaped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.report import printable
from installer.cli.screen import size
from installer.evidence.contents import Change, Contents
from installer.lockfile import KIND_ORDER, Artifact
from installer.trust.sign import content_digest

TEMPLATES = Path(__file__).with_name("templates")


def render(contents: Contents, changes: list[Change] | None = None, against: str = "") -> str:
    """The page as HTML.

    Args:
        changes: what differs from the bundle called ``against``; None leaves the section out.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = size
    artifacts = contents.lock.artifacts
    counted = Counter(_licence(a) for a in artifacts)
    html = environment.get_template("page.html.j2").render(
        c=contents,
        changes=changes,
        against=against,
        unknown=list(contents.licences.get("unknown", ())),
        ask=list(contents.licences.get("ask_before_redistribution", ())),
        notes=[a for a in artifacts if a.notes],
        licences=sorted(counted.items(), key=lambda item: (-item[1], item[0])),
        kinds=[(k, mine, sum(a.size for a in mine)) for k in KIND_ORDER if (mine := contents.lock.of_kind(k))],
        digest=content_digest({t.path: t.sha256 for t in contents.trusted.targets.values()}),
    )
    return printable(html) + "\n"


def _licence(artifact: Artifact) -> str:
    return artifact.licence or ("see the text in licences/" if artifact.kind != "images" else "not declared")
