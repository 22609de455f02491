"""Python wheels: each set is one closed environment, laid out as a PEP 503 index beside a hashed requirements file."""

from __future__ import annotations

import email.parser
import html
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from engine import durable
from engine.addresses import lockable, public
from engine.download import Downloader, Item
from engine.errors import InputError, TrustError, UpstreamError
from installer import wheelarchive
from installer.definition import WheelSet
from installer.kinds import Work, directwheels, items, overwrites, place, uvresolve, wheelfiles
from installer.kinds import pins as pinning
from installer.kinds.pins import Pins
from installer.kinds.uvresolve import Found
from installer.lockfile import Artifact, Kind
from installer.network.pipconfig import PipConfig

MAX_METADATA = 4 << 20  # bytes of a METADATA file we are willing to read


def resolve(work: Work) -> list[Artifact]:
    """Pin every set with uv; sizes and licences are asked from the index."""
    config = work.network.pip
    sets = [(wheels, pinning.of(work, wheels)) for wheels in work.definition.wheels]  # a fault in any shows at once
    return [a for wheels, pins in sets for a in overwrites.noted(work, wheels, resolve_set(work, wheels, config, pins))]


def resolve_set(
    work: Work,
    wheels: WheelSet,
    config: PipConfig,
    pins: Pins | None,
    *,
    kind: Kind = "wheels",
    below: str = "wheels",
) -> list[Artifact]:
    """The artifacts of one set, laid out below ``content/BELOW/NAME``.

    Raises:
        UpstreamError: a source serves other wheels than those pinned.
        InputError: no solution, or a wheel is not pinned.
    """
    target = work.definition.target
    python = uvresolve.python_release(target, work.packages, image=wheels.runtime == "debs")
    with tempfile.TemporaryDirectory(prefix="appliance-direct-") as scratch:
        direct = directwheels.bring(work, wheels, Path(scratch))
        found = uvresolve.resolve(
            wheels,
            target,
            config,
            direct,
            Path(scratch),
            pins,
            work.pinning,
            python,
            network=work.network,
            room=work.cache.root,
        )
    if pins is not None:
        pinning.require(pins, found, wheels.name, complete=work.pinning == "obey")
        if work.pinning == "obey" and (remark := pinning.unneeded(pins, found)):
            work.report.say(remark)
    work.report.say(f"{below}/{wheels.name}: {len(found)} wheels")
    downloader = work.downloader()
    with ThreadPoolExecutor(8) as workers:
        facts = list(workers.map(lambda f: _facts(work, downloader, f, python), found))
    return [
        Artifact(
            path=f"{below}/{wheels.name}/{f.filename}", kind=kind, group=wheels.name, name=f.name, version=f.version, size=size,
            sha256=f.sha256, source=lockable(f.url), licence=licence, profiles=wheels.profiles,
        )
        for f, (size, licence) in zip(found, facts, strict=True)
    ]  # fmt: skip


def _facts(work: Work, downloader: Downloader, found: Found, python: str) -> tuple[int, str]:
    """Size in bytes and declared licence of a wheel for the target's Python, a patch release.

    Raises:
        InputError: its own metadata says that it is not for that Python, whatever the index says.
    """
    size, metadata = _metadata(work, downloader, found)
    if asked := wheelfiles.unfit_python(metadata, python):
        raise InputError(
            f"wheels: {found.name} {found.version} is for Python {asked}, the target has {python}",
            remedy="Pin a version that is for this Python, or correct target.python.",
        )
    return size, licence_of(metadata)


def _metadata(work: Work, downloader: Downloader, found: Found) -> tuple[int, bytes]:
    """Size in bytes and METADATA of a wheel, without downloading it where the index can tell."""
    if urlsplit(found.url).scheme == "file":
        path = Path(unquote(urlsplit(found.url).path))
        return path.stat().st_size, metadata_of(path)
    if work.cache.path(found.sha256).exists():
        path = work.cache.path(found.sha256)
        return path.stat().st_size, metadata_of(path, found.filename)
    size = found.size or _length(downloader, found.url)
    if lockable(found.url) != found.url.partition("#")[0]:
        # A link that holds its own permission: the lock cannot name it, so what it opens is brought into the cache now.
        downloader.fetch(Item(found.filename, found.url, found.sha256, size), "wheels behind signed links")
        return size, metadata_of(work.cache.path(found.sha256), found.filename)
    try:
        return size, downloader.read(found.url + ".metadata", MAX_METADATA)  # PEP 658
    except UpstreamError:
        downloader.fetch(Item(found.filename, found.url, found.sha256, size), "wheels without metadata")
        return size, metadata_of(work.cache.path(found.sha256), found.filename)


def _length(downloader: Downloader, url: str) -> int:
    length = downloader.length(url)
    if length is None:
        raise UpstreamError(
            "the index does not tell the size of a wheel",
            where=public(url),
            remedy="Use an index that sends Content-Length.",
        )
    return length


def metadata_of(wheel: Path, name: str = "") -> bytes:
    """The METADATA file of a wheel; empty when there is none.

    Args:
        name: what to call the wheel in a refusal; in a store its file is named by its hash.

    Raises:
        TrustError: not a zip archive, or a damaged one.
    """
    with wheelarchive.opened(wheel, name) as archive:
        return _metadata_in(archive)


def _metadata_in(archive: zipfile.ZipFile) -> bytes:
    for info in archive.infolist():
        if info.filename.endswith(".dist-info/METADATA") and info.filename.count("/") == 1:
            return wheelarchive.read(archive, info, MAX_METADATA) or b""
    return b""


def licence_of(metadata: bytes) -> str:
    """What the distribution declares: expression, else short text, else classifiers (core metadata 2.4)."""
    message = email.parser.BytesHeaderParser().parsebytes(metadata)
    if expression := message.get("License-Expression"):
        return str(expression).strip()
    text = " ".join(str(message.get("License") or "").split())
    if text and text.upper() != "UNKNOWN" and len(text) <= 80:
        return text
    names = [str(c).rsplit(" :: ", 1)[-1] for c in message.get_all("Classifier", []) if str(c).startswith("License ::")]
    return " OR ".join(names)


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    work.downloader().fetch_all(items(artifacts), task="wheels")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Only wheels, none unpacks to more than an honest one, each says what its name says, and no two of a set overwrite each other's files.

    Raises:
        TrustError: a file is not the wheel it is called, or a bomb.
        InputError: two wheels of a set install the same file with different content, and nothing waives it.
    """
    files: dict[str, list[wheelfiles.Entry]] = {}
    sets = {w.name: w for w in work.definition.wheels}
    for artifact in artifacts:
        filename = artifact.path.rsplit("/", 1)[-1]
        try:
            name, version, _, _ = parse_wheel_filename(filename)
            # Once: the list is long to read.
            with wheelarchive.opened(work.cache.path(artifact.sha256), artifact.path) as archive:
                wheelarchive.require_bounded_archive(archive, artifact.size, artifact.path)
                metadata, files[artifact.path] = _metadata_in(archive), wheelfiles.installed(archive)
            inside = email.parser.BytesHeaderParser().parsebytes(metadata)
        except (InvalidWheelFilename, ValueError) as error:
            raise TrustError(
                f"not a wheel: {error}", where=artifact.path, remedy="Remove it from the definition."
            ) from error
        if canonicalize_name(str(inside.get("Name", ""))) != name or str(inside.get("Version", "")) != str(version):
            raise TrustError(
                f"the wheel calls itself {inside.get('Name')} {inside.get('Version')} inside",
                where=artifact.path,
                remedy="Do not use it.",
            )
    for directory in sorted({a.path.rsplit("/", 1)[0] for a in artifacts}):
        together = [a for a in artifacts if a.path.rsplit("/", 1)[0] == directory]
        overwrites.require(sets.get(directory.removeprefix("wheels/")), directory, together, files)


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    """Wheels flat in one directory a set, with requirements.txt and a PEP 503 tree over them.

    Where wheels overwrite each other's files, ``last/`` has a requirements file for each that is installed once more.
    """
    place(work, artifacts, content)
    for directory in sorted({a.path.rsplit("/", 1)[0] for a in artifacts}):
        inside = [a for a in artifacts if a.path.rsplit("/", 1)[0] == directory]
        durable.write(content / directory / "requirements.txt", requirements(inside))
        for number, one in enumerate(overwrites.last(inside, work.cache), 1):
            durable.write(content / directory / overwrites.DIRECTORY / f"{number:03}.txt", requirements([one]))
        _pep503(content / directory / "simple", inside)


def requirements(artifacts: Sequence[Artifact]) -> str:
    """A requirements file that pins every distribution to its bytes."""
    ordered = sorted(artifacts, key=lambda a: canonicalize_name(a.name))
    return "".join(f"{a.name}=={a.version} --hash=sha256:{a.sha256}\n" for a in ordered)


def _pep503(simple: Path, artifacts: Sequence[Artifact]) -> None:
    projects: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        projects.setdefault(canonicalize_name(artifact.name), []).append(artifact)
    durable.write(simple / "index.html", _page("Index", [(f"{p}/", p) for p in sorted(projects)]))
    for project, wheels in projects.items():
        links = [(f"../../{a.path.rsplit('/', 1)[-1]}#sha256={a.sha256}", a.path.rsplit("/", 1)[-1]) for a in wheels]
        durable.write(simple / project / "index.html", _page(project, sorted(links)))


def _page(title: str, links: list[tuple[str, str]]) -> str:
    body = "".join(
        f'<a href="{html.escape(href.replace("+", "%2B"))}">{html.escape(text)}</a><br>\n' for href, text in links
    )
    return f"<!DOCTYPE html>\n<html><head><title>{html.escape(title)}</title></head><body>\n{body}</body></html>\n"
