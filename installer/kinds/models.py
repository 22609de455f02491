"""Models: folders of plain files, from a directory or from a hub at a pinned commit, through the intake."""

from __future__ import annotations

import fnmatch
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from engine.blobs import hash_file
from engine.download import Downloader, Item
from engine.errors import InputError, TrustError, UpstreamError
from engine.tree import walk
from installer import hub, intake
from installer.definition import Model
from installer.intake import ModelFile
from installer.kinds import Work, items, place
from installer.lockfile import Artifact

SMALL = 64 << 20  # bytes; files whose hash the hub does not tell are small, larger ones are refused


def resolve(work: Work) -> list[Artifact]:
    """Hash every file, and hear early what the intake has to say."""
    return [a for model in work.definition.models for a in _resolve(work, model)]


def _resolve(work: Work, model: Model) -> list[Artifact]:
    found = _from_hub(work, model) if model.hub else _from_directory(work, model)
    files = [(path, size, sha256, source) for path, size, sha256, source in found if _wanted(model, path)]
    if not files:
        raise InputError(
            f"models: {model.name}: no file matches", remedy="Correct path, hub or include in the definition."
        )
    listing = "".join(f"{sha256}  {path}\n" for path, _, sha256, _ in sorted(files))
    version = model.revision or hashlib.sha256(listing.encode()).hexdigest()[:12]
    unread = [
        Item(path, source, sha256, size) for path, size, sha256, source in files if not path.endswith(".safetensors")
    ]
    _downloader(work).fetch_all(unread, task=f"{model.name}: small files")
    verdict = intake.examine([_reader(work, model, f) for f in files], licence=model.licence, waivers=model.waivers)
    intake.require(verdict, model.name)
    for waiver in verdict.unused_waivers:
        work.report.say(f"models: {model.name}: the waiver for {waiver.rule} is not needed")
    notes = tuple(f"waiver {w.rule}: {w.reason}" for w in verdict.used_waivers)
    return [
        Artifact(
            path=f"models/{model.name}/{path}", kind="models", group=model.name, name=model.name, version=version, size=size,
            sha256=sha256, source=source, licence=verdict.licence, notes=notes, profiles=model.profiles,
        )
        for path, size, sha256, source in files
    ]  # fmt: skip


def _reader(work: Work, model: Model, file: tuple[str, int, str, str]) -> ModelFile:
    """How the intake reads a file: from the cache, from the directory, or (weights on a hub) from the first bytes over the network."""
    path, size, sha256, source = file
    if work.cache.has(sha256, size):
        return ModelFile(path, size, lambda: work.cache.path(sha256).open("rb"))
    if not model.hub:
        return ModelFile(path, size, lambda: (_directory(work, model) / path).open("rb"))

    def head() -> io.BytesIO:
        access = hub.access()
        with work.downloader().open(
            source, {"Range": f"bytes=0-{min(size, SMALL) - 1}", **access.headers(source)}
        ) as response:
            return io.BytesIO(response.read(min(size, SMALL)))

    return ModelFile(path, size, head)  # type: ignore[arg-type]


def _wanted(model: Model, path: str) -> bool:
    return not model.include or any(fnmatch.fnmatch(path, pattern) for pattern in model.include)


def _directory(work: Work, model: Model) -> Path:
    return (work.base / (model.path or "")).resolve()


def _from_directory(work: Work, model: Model) -> list[tuple[str, int, str, str]]:
    directory = _directory(work, model)
    if not directory.is_dir():
        raise InputError(
            f"models: {model.name}: there is no such directory",
            where=str(directory),
            remedy="Correct path in the definition; it is relative to the definition.",
        )
    found = []
    for entry in sorted(walk(directory), key=lambda e: e.path):
        if _hidden(entry.path):
            continue
        if entry.kind != "file":
            raise TrustError(
                f"models: {model.name}: a {entry.kind} is not taken",
                where=str(directory / entry.path),
                remedy="Put the file itself there.",
            )
        sha256, size = hash_file(directory / entry.path)
        found.append((entry.path, size, sha256, (directory / entry.path).as_uri()))
    return found


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _from_hub(work: Work, model: Model) -> list[tuple[str, int, str, str]]:
    found = []
    for file in hub.files(model.hub or "", model.revision or ""):
        if _hidden(file.path) or not _wanted(model, file.path):
            continue
        sha256 = file.sha256 or _small_hash(work, model, file)
        found.append((file.path, file.size, sha256, file.url))
    return found


def _small_hash(work: Work, model: Model, file: hub.HubFile) -> str:
    """The hub tells no SHA-256 of a small file: read it once; the lock then pins what was read."""
    if file.size > SMALL:
        raise UpstreamError(
            f"models: {model.name}: the hub tells no SHA-256 of {file.path}",
            remedy="Use a revision whose large files are stored as LFS or Xet.",
        )
    digest = hashlib.sha256()
    with work.downloader().open(file.url, hub.access().headers(file.url)) as response:
        data = response.read(SMALL + 1)
    if len(data) != file.size:
        raise UpstreamError(
            f"models: {model.name}: {file.path} has {len(data)} bytes, the hub says {file.size}", remedy="Lock again."
        )
    digest.update(data)
    with work.cache.incoming(digest.hexdigest(), len(data)) as incoming:
        if not incoming.complete:
            incoming.restart()
            incoming.write(data)
    return digest.hexdigest()


def _downloader(work: Work) -> Downloader:
    """The downloader, with the hub's token for the hub's own host if any model comes from there."""
    if not any(m.hub for m in work.definition.models):
        return work.downloader()
    return Downloader(work.cache, report=work.report, headers=hub.access().headers)


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    _downloader(work).fetch_all(items(artifacts), task="models")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """The intake again, now over every byte."""
    for model in work.definition.models:
        mine = [a for a in artifacts if a.group == model.name]
        prefix = f"models/{model.name}/"
        files = [
            ModelFile(a.path.removeprefix(prefix), a.size, lambda a=a: work.cache.path(a.sha256).open("rb"))
            for a in mine
        ]  # type: ignore[misc]
        intake.require(intake.examine(files, licence=model.licence, waivers=model.waivers), model.name)


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    place(work, artifacts, content)
