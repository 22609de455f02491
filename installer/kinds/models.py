"""Models: folders of weights and what belongs to them, from a directory or from a hub at a pinned commit.

Nothing gets into the lock, and nothing locked gets into a bundle, that the intake refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import TrustError
from engine.tree import Entry
from installer import intake
from installer.definition import Model
from installer.hub import Hub, Repository
from installer.intake import Verdict
from installer.kinds import Work, items, place
from installer.lockfile import Artifact
from installer.modelfolder import Folder


def resolve(work: Work) -> list[Artifact]:
    """Examine and hash every model. Of a hub's weights only the headers travel; all other files are brought in.

    Raises:
        TrustError: the intake refuses a model.
        UpstreamError: the hub has no such commit, refuses access or does not answer.
    """
    return [a for model in work.definition.models for a in _resolve(work, model)]


def _resolve(work: Work, model: Model) -> list[Artifact]:
    source: Folder | Repository
    if model.hub and model.revision:
        source = Repository(Hub(), model.hub, model.revision, work.cache, work.report)
    else:
        source = Folder(work.base / (model.path or ""))
    verdict = _examine(model, source.entries, source.read)
    for remark in verdict.remarks():
        work.report.say(f"model {model.name}: {remark}")
    verdict.enforce(model.name, source.where)
    paths = [e.path for e in verdict.taken]
    version = source.digest(paths) if isinstance(source, Folder) else source.version
    artifacts = []
    for path in paths:
        sha256, size, url = source.pin(path)
        artifacts.append(
            Artifact(
                path=f"{_prefix(model)}{path}", kind="models", group=model.name, name=model.name, version=version,
                size=size, sha256=sha256, source=url, licence=verdict.licence, notes=verdict.notes(path),
                profiles=model.profiles,
            )
        )  # fmt: skip
    return artifacts


def _examine(model: Model, entries: Sequence[Entry], read: intake.Read) -> Verdict:
    return intake.examine(entries, read, include=model.include, licence=model.licence, waivers=model.waivers)


def _prefix(model: Model) -> str:
    return f"models/{model.name}/"


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Bring the locked files in.

    Raises:
        TrustError: a source serves other bytes than the locked ones.
        UpstreamError: it is gone, refuses access or does not answer.
    """
    models = {m.name: m for m in work.definition.models}
    local = [a for a in artifacts if not models[a.group].hub]
    work.downloader().fetch_all(items(local), task="models")
    for model in work.definition.models:
        missing = [a for a in artifacts if a.group == model.name and not work.cache.has(a.sha256, a.size)]
        if not (model.hub and missing):
            continue
        hub = Hub()
        with hub.explained(model.hub, missing[0].source):
            hub.downloader(work.cache, work.report).fetch_all(items(missing), task=f"model {model.name}")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """The intake once more, now over the verified bytes that will be laid out.

    Raises:
        TrustError: the intake refuses a model, or the lock lists a file that the intake leaves out.
    """
    for model in work.definition.models:
        mine = {a.path.removeprefix(_prefix(model)): a for a in artifacts if a.group == model.name}

        def read(path: str, n: int, mine: dict[str, Artifact] = mine) -> bytes:
            with work.cache.path(mine[path].sha256).open("rb") as file:
                return file.read(n)

        verdict = _examine(model, [Entry(path, "file", a.size) for path, a in mine.items()], read)
        verdict.enforce(model.name, "the lock")
        if astray := sorted(mine.keys() - {e.path for e in verdict.taken}):
            raise TrustError(
                f"model {model.name}: the lock lists what may not cross: {', '.join(astray)}",
                remedy="Run `appliance lock` again; a lock is not edited by hand.",
            )


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    place(work, artifacts, content)
