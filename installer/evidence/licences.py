"""``licences/``: each licence text once, named by its hash, and an index of which artifact has which, in SPDX's words where it is clear."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import durable
from engine.errors import TrustError
from installer.evidence import dep5, knowntexts, spdx, texts
from installer.evidence.imagefiles import Inside
from installer.evidence.texts import Found
from installer.kinds import Work, debevidence
from installer.lockfile import Artifact, Lock

# NVIDIA's agreements allow passing on unmodified packages if the agreement reaches every recipient.
NVIDIA = re.compile(r"^(nvidia-|libnvidia-|cuda-|libcu(blas|dnn|fft|rand|solver|sparse)|libnccl)")
# Some of its packages are under open licences, which need no agreement to be passed on.
OPEN = re.compile(r"\b(BSD|MIT|Apache|MPL|ISC|GPL)", re.IGNORECASE)
# Beside a licence; they grant nothing themselves.
NO_LICENCE = re.compile(r"(notice|authors)([-_.][^/]*)?", re.IGNORECASE)
DEVELOPER_TOOL = re.compile(r"nvcc|^cuda-(toolkit|compiler|nvprof|gdb)")


@dataclass(frozen=True)
class Entry:
    """What is known of one artifact's licence.

    Attributes:
        licence: as its supplier declares it.
        texts: SHA-256 of files in ``licences/texts``.
        spdx: the same as an SPDX expression; empty where that is not clear.
        basis: what ``spdx`` follows from: ``declared``, ``text`` (a known licence text), ``declared and text`` (the words may mean
            several, the text is one of them) or ``copyright file`` (the names in a machine-readable one).
    """

    path: str
    kind: str
    name: str
    version: str
    licence: str
    texts: tuple[str, ...]
    spdx: str = ""
    basis: str = ""


def write(lock: Lock, work: Work, content: Path, inside: Mapping[str, Inside] | None = None) -> None:
    """Write texts, ``index.json`` and ``index.txt``. ``inside`` is what was read from the images, by their names.

    Raises:
        TrustError: an NVIDIA package carries no licence text.
    """
    artifacts = tuple(a for a in lock.artifacts if not debevidence.is_evidence(a))
    found = {a.path: _read(a, work) for a in artifacts}
    inside = inside or {}
    entries = index(artifacts, found, inside)
    require_nvidia([e for e in entries if not found[e.path].empty])
    every = [*(t for f in found.values() for t in f.texts), *(t for i in inside.values() for t in i.texts)]
    for text in {t.data: t for t in every}.values():
        durable.write(content / "licences" / "texts" / f"{_sha256(text.data)}.txt", text.data)
    data = {
        "artifacts": [asdict(e) for e in entries],
        "images": {name: _image(i) for name, i in sorted(inside.items())},
        "unknown": [e.path for e in entries if unknown(e)],
        "unclassified": [e.path for e in entries if unclassified(e)],
        "ask_before_redistribution": [e.path for e in entries if developer_tool(e)],
    }
    durable.write(content / "licences" / "index.json", json.dumps(data, indent=1, sort_keys=True) + "\n")
    durable.write(content / "licences" / "index.txt", readable(entries, inside))


def _image(inside: Inside) -> dict[str, object]:
    """An image's packages and what could not be read of it."""
    packages = [{k: v for k, v in asdict(p).items() if v} for p in inside.packages]
    return {
        "label": inside.label,
        "distribution": inside.distribution,
        "packages": packages,
        "unread": list(inside.unread),
    }


def _read(artifact: Artifact, work: Work) -> Found:
    file = work.cache.path(artifact.sha256)
    if artifact.kind in ("wheels", "installer"):
        return texts.of_wheel(file, artifact.path)
    if artifact.kind == "debs":
        return texts.of_deb(file, artifact.path)
    return texts.of_model_file(artifact.path, file) if artifact.kind == "models" else Found()


def index(
    artifacts: tuple[Artifact, ...], found: dict[str, Found], inside: Mapping[str, Inside] | None = None
) -> list[Entry]:
    """An entry for every artifact; files of a model or an image share its texts, packages those that they link to.

    An image's licence is what the definition says, else what its own label says.
    """
    images = inside or {}
    debs = {a.name: found[a.path] for a in artifacts if a.kind == "debs"}
    models: dict[str, list[texts.Text]] = {}
    for a in artifacts:
        if a.kind == "models":
            models.setdefault(a.group, []).extend(found[a.path].texts)
    entries = []
    for a in artifacts:
        mine = list(found[a.path].texts) + [t for link in found[a.path].links for t in debs.get(link, Found()).texts]
        image = images.get(a.group) if a.kind == "images" else None
        shared = image.texts if image else models[a.group] if a.kind == "models" else mine
        hashes = {_sha256(t.data) for t in shared}
        licence = a.licence or (image.label if image else "")
        known = classified(a.kind, licence, shared)
        entries.append(Entry(a.path, a.kind, a.name, a.version, licence, tuple(sorted(hashes)), *known))
    return entries


def classified(kind: str, declared: str, found: Iterable[texts.Text]) -> tuple[str, str]:
    """The SPDX expression for an artifact's licence and what it follows from (``Entry.basis``); both empty where it is not clear.

    Args:
        declared: the supplier's words; they come first, texts decide only what the words leave open.
        found: the artifact's licence texts.
    """
    if expression := spdx.normalise(declared):
        return expression, "declared"
    granting = [t.data for t in found if not NO_LICENCE.fullmatch(posixpath.basename(t.name))]
    if declared:
        expression = spdx.settled(declared, knowntexts.only(granting))
        return (expression, "declared and text") if expression else ("", "")
    if kind == "debs" and (expression := dep5.expression(granting)):
        return expression, "copyright file"
    expression = knowntexts.only(granting)
    return (expression, "text") if expression else ("", "")


def require_nvidia(entries: list[Entry]) -> None:
    """NVIDIA's packages cross only with their agreement.

    Raises:
        TrustError: names those without one.
    """
    if bare := [e.path for e in entries if nvidia(e) and not e.texts and not OPEN.search(e.licence)]:
        raise TrustError(
            f"NVIDIA packages without their licence text: {', '.join(bare)}",
            remedy="NVIDIA allows redistribution only with its agreement; take packages that carry it.",
        )


def nvidia(entry: Entry) -> bool:
    """Whether a wheel or package is named like NVIDIA's."""
    return entry.kind in ("wheels", "debs") and bool(NVIDIA.match(entry.name.lower()))


def developer_tool(entry: Entry) -> bool:
    """Compilers and the like, which NVIDIA's terms do not list as redistributable."""
    return nvidia(entry) and bool(DEVELOPER_TOOL.search(entry.name.lower()))


def unknown(entry: Entry) -> bool:
    """Neither a declared licence nor a text."""
    return not entry.licence and not entry.texts


def unclassified(entry: Entry) -> bool:
    """Nothing is declared, and which licence the texts are is for people to read."""
    return bool(entry.texts) and not entry.licence and not entry.spdx


def readable(entries: list[Entry], inside: Mapping[str, Inside] | None = None) -> str:
    """The index for people; what is unknown comes first."""
    lines = ["Licences of this bundle", "", "Texts are in texts/, each named by its SHA-256.", ""]
    bad = [e for e in entries if unknown(e)]
    lines += [f"Artifacts of unknown licence: {len(bad)}", *(f"  {e.path}" for e in bad), ""]
    unread = [e for e in entries if unclassified(e)]
    lines += [
        f"Artifacts with a text alone that is not classified: {len(unread)}",
        *(f"  {e.path}" for e in unread),
        "",
    ]
    if tools := [e for e in entries if developer_tool(e)]:
        lines += ["NVIDIA developer tools: ask NVIDIA before passing them on", *(f"  {e.path}" for e in tools), ""]
    for name, image in sorted((inside or {}).items()):
        lines += [f"Inside image {name}: {len(image.packages)} packages, {len(image.texts)} licence texts"]
        lines += [f"  {p.type} {p.name} {p.version}: {p.licence or 'see its text'}" for p in image.packages]
        lines += [*(f"  not read: {path}" for path in image.unread), ""]
    for e in entries:
        said = e.licence or e.spdx or ("see text" if e.texts else "unknown")
        clear = f" ({e.spdx}, by {e.basis})" if e.spdx and e.spdx != e.licence else ""
        lines.append(f"{e.path}\n  {e.name} {e.version}: {said}{clear}")
        lines += [f"  texts/{t}.txt" for t in e.texts]
    return "\n".join(lines) + "\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
