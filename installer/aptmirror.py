"""The builder's own apt sources as a place to find other suites: so that a definition needs no host name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from engine import inputfile
from engine.errors import InputError
from installer.definition import AptSource

# Code names of a family. A vendor's repository for one of them is told apart by its components: it has no `main`.
FAMILIES = {
    "debian": ("bullseye", "bookworm", "trixie", "forky", "sid"),
    "ubuntu": ("focal", "jammy", "noble", "plucky", "questing", "resolute"),
}
MAX_SOURCES = 1 << 20  # bytes of a file of sources
POCKET = re.compile(r"(?P<name>[a-z]+)(?P<pocket>-[a-z-]+)?")
DEFAULT_KEYRING = "/usr/share/keyrings/{family}-archive-keyring.gpg"  # what a source without Signed-By is verified with


def stanzas(etc: Path) -> list[dict[str, str]]:
    """Every source below ``etc`` (``/etc/apt``) as deb822 fields with capitalised names, one-line sources included."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    texts = [(f.suffix, read(f)) for f in files if f.suffix in (".list", ".sources") and f.is_file()]
    return [s for suffix, text in texts for s in (_deb822(text) if suffix == ".sources" else _lines(text))]


def read(file: Path) -> str:
    """The text of a file of sources; what is not UTF-8 can only be in comments.

    Raises:
        InputError: it is larger than any.
        ResourceError: it may not be read.
    """
    return inputfile.read(file, MAX_SOURCES, "apt's sources").decode(errors="replace")


def expand(sources: Sequence[AptSource], etc: Path, family: str) -> list[AptSource]:
    """The sources with an address and a keyring each; those that say ``builders`` take them from ``etc``.

    Args:
        family: of the target, ``debian`` or ``ubuntu``.

    Raises:
        InputError: the builder has no source of the family, or none that carries the suite's pocket.
    """
    found: list[AptSource] = []
    for source in sources:
        if not source.builders:
            found.append(source)
            continue
        places: dict[tuple[str, str], list[str]] = {}
        for suite in source.suites:
            places.setdefault(_place(suite, etc, family), []).append(suite)
        for (uri, keyring), suites in places.items():
            update = {"uri": uri, "suites": tuple(suites), "signed_by": source.signed_by or keyring, "builders": False}
            found.append(source.model_copy(update=update))
    return found


def _place(suite: str, etc: Path, family: str) -> tuple[str, str]:
    """Address and keyring of the builder's source that carries the same pocket of another release."""
    mirrors = _mirrors(etc, family)
    if not mirrors:
        raise InputError(
            f"debs.sources: this builder's apt has no source of {family} to find {suite} at",
            where=str(etc),
            remedy="Give the source's uri and signed_by instead of builders.",
        )
    parts = POCKET.fullmatch(suite)
    if not parts or parts["name"] not in FAMILIES[family]:
        raise InputError(
            f"debs.sources: {suite} is not a suite of {family}",
            remedy=f"Choose of {', '.join(FAMILIES[family])}, alone or with -updates, -security or -backports.",
        )
    pocket = parts["pocket"] or ""
    # Debian's security pocket lives in an archive of its own; the others lie beside the release.
    for wanted in [pocket] if pocket == "-security" else [pocket, ""]:
        if wanted in mirrors:
            return mirrors[wanted]
    raise InputError(
        f"debs.sources: this builder's apt has no source with {pocket or 'a release'} of {family} to find {suite} at",
        where=str(etc),
        remedy="Add one to the builder's apt, leave the suite out, or give the source's uri and signed_by.",
    )


def _mirrors(etc: Path, family: str) -> dict[str, tuple[str, str]]:
    """Pocket to address and keyring, the first of each."""
    mirrors: dict[str, tuple[str, str]] = {}
    for stanza in stanzas(etc):
        fields = {k.lower(): v.split() for k, v in stanza.items()}
        usable = "deb" in fields.get("types", []) and "main" in fields.get("components", [])
        if not usable or fields.get("enabled") == ["no"] or not fields.get("uris"):
            continue
        named = stanza.get("Signed-By", "").strip()
        keyring = named if named.startswith("/") else DEFAULT_KEYRING.format(family=family)
        for suite in fields.get("suites", []):
            parts = POCKET.fullmatch(suite)
            if parts and parts["name"] in FAMILIES[family]:
                mirrors.setdefault(parts["pocket"] or "", (fields["uris"][0], keyring))
    return mirrors


def _deb822(text: str) -> list[dict[str, str]]:
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    field = re.compile(r"^([A-Za-z][\w-]*):((?:.*)(?:\n[ \t].*)*)", re.MULTILINE)
    return [
        {name.title(): value.strip("\n").strip(" \t") for name, value in field.findall(stanza)}
        for stanza in re.split(r"\n[ \t]*\n", text)
        if stanza.strip()
    ]


def _lines(text: str) -> list[dict[str, str]]:
    found = []
    for line in re.finditer(
        r"^[ \t]*deb[ \t]+(?:\[([^]]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)", text, re.MULTILINE
    ):
        signed_by = re.search(r"signed-by=(\S+)", line[1] or "", re.IGNORECASE)
        stanza = {"Types": "deb", "Uris": line[2], "Suites": line[3], "Components": line[4].strip()}
        found.append(stanza | ({"Signed-By": signed_by[1]} if signed_by else {}))
    return found
