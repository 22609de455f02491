"""Models: folders of weights and what belongs to them, from a directory, a hub at a pinned commit, or an S3-compatible store.

Nothing gets into the lock, and nothing locked gets into a bundle, that the intake refuses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.errors import InputError, TrustError
from engine.tree import Entry
from installer import intake, modelsignature
from installer.definition import Model
from installer.hub import Hub, Repository
from installer.intake import Verdict
from installer.kinds import Work, items, link, place
from installer.lockfile import GATED, TERMS, Artifact
from installer.modelfolder import Folder
from installer.s3 import Bucket, Store


def resolve(work: Work) -> list[Artifact]:
    """Examine and hash every model. Of a hub's weights only the headers travel; all other files are brought in.

    Raises:
        TrustError: the intake refuses a model, or its signature does not hold.
        InputError: a model is gated and the definition does not say who accepted its terms.
        UpstreamError: the source has no such content, refuses access or does not answer.
    """
    return [a for model in work.definition.models for a in _resolve(work, model)]


def require_paths(work: Work) -> None:
    """Refuse models whose directories are not there, every one at once.

    Raises:
        InputError: names the models and their paths.
    """
    gone = [m for m in work.definition.models if m.path and not (work.base / m.path).is_dir()]
    if gone:
        raise InputError(
            "\n".join(f"model {m.name}: there is no such model directory: {work.base / (m.path or '')}" for m in gone),
            remedy="Correct `path` of the model in the definition; it is relative to the definition's own directory.",
        )


def _resolve(work: Work, model: Model) -> list[Artifact]:
    source: Folder | Repository | Bucket
    gated = ""
    if model.hub and model.revision:
        source = Repository(Hub(work.network), model.hub, model.revision, work.cache, work.report)
        gated = source.gated
    elif model.s3:
        source = Bucket(Store(model.s3, work.network), work.cache, work.report)
    else:
        source = Folder(work.base / (model.path or ""))
    terms = _terms(model, gated, source.where)
    # The signature is evidence, not model: it crosses, and no rule of the intake is about it.
    signature = _signature_path(model)
    verdict = _examine(model, [e for e in source.entries if e.path != signature], source.read)
    for remark in verdict.remarks():
        work.report.say(f"model {model.name}: {remark}")
    verdict.enforce(model.name, source.where)
    paths = [e.path for e in verdict.taken]
    if signature:
        _require_signature(model, source.entries, source.where)
        paths.append(signature)
    version = source.version if isinstance(source, Repository) else source.digest(paths)
    artifacts = []
    for path in paths:
        sha256, size, url = source.pin(path)
        artifacts.append(
            Artifact(
                path=f"{_prefix(model)}{path}", kind="models", group=model.name, name=model.name, version=version,
                size=size, sha256=sha256, source=url, licence=verdict.licence,
                notes=(*verdict.notes(path), *terms), profiles=model.profiles,
            )
        )  # fmt: skip
    if not model.signature:
        return artifacts
    fetch(work, artifacts)
    outcome = _verify(work, model, artifacts)
    work.report.say(f"model {model.name}: {outcome}")
    return [a.model_copy(update={"notes": (*a.notes, outcome)}) for a in artifacts]


def _terms(model: Model, gated: str, where: str) -> tuple[str, ...]:
    """What to record of a gate and of who accepted its terms.

    Raises:
        InputError: the repository is gated and nobody stands for the acceptance.
    """
    said = model.accepted
    if gated and said is None:
        raise InputError(
            f"model {model.name}: the repository is gated ({gated}) and the definition has no record of who accepted its terms",
            where=where,
            remedy="Accept the terms on the hub, then record it: `accepted: {by: WHO, on: YYYY-MM-DD, terms: WHICH}`.",
        )
    gate = (f"{GATED}{gated}",) if gated else ()
    return (*gate, f"{TERMS}{said.by} on {said.on}: {said.terms}") if said else gate


def _signature_path(model: Model) -> str:
    return model.signature.file if model.signature else ""


def _require_signature(model: Model, entries: Sequence[Entry], where: str) -> None:
    found = [e for e in entries if e.path == _signature_path(model)]
    if not found or found[0].kind != "file" or found[0].size > modelsignature.LIMIT:
        raise TrustError(
            f"model {model.name}: there is no signature file {_signature_path(model)} of at most {modelsignature.LIMIT} bytes",
            where=where,
            remedy="The definition demands a signature: correct `signature.file`, or take the model from a maker who signs.",
        )


def _verify(work: Work, model: Model, artifacts: Sequence[Artifact]) -> str:
    """Verify the signature over the cached bytes that the lock names."""
    if not model.signature:
        return ""
    with tempfile.TemporaryDirectory(prefix="signed-", dir=work.cache.root) as name:
        folder = Path(name) / model.name
        for artifact in artifacts:
            link(work, artifact, folder / artifact.path.removeprefix(_prefix(model)))
        return modelsignature.verify(model.signature, model.name, folder, work.base)


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
    local = [a for a in artifacts if models[a.group].path is not None]
    work.downloader().fetch_all(items(local), task="models")
    for model in work.definition.models:
        missing = [a for a in artifacts if a.group == model.name and not work.cache.has(a.sha256, a.size)]
        if model.s3 and missing:
            store = Store(model.s3, work.network)
            with store.explained(*(a.source for a in missing)):
                store.downloader(work.cache, work.report).fetch_all(items(missing), task=f"model {model.name}")
        if not (model.hub and missing):
            continue
        hub = Hub(work.network)
        with hub.explained(model.hub, missing[0].source):
            hub.downloader(work.cache, work.report).fetch_all(items(missing), task=f"model {model.name}")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """The intake once more, now over the verified bytes that will be laid out.

    Raises:
        TrustError: the intake refuses a model, its signature does not hold, or the lock lists a file that the intake leaves out.
    """
    for model in work.definition.models:
        mine = {a.path.removeprefix(_prefix(model)): a for a in artifacts if a.group == model.name}
        if model.signature:
            entries = [Entry(path, "file", a.size) for path, a in mine.items()]
            _require_signature(model, entries, "the lock")
            _verify(work, model, list(mine.values()))
            del mine[_signature_path(model)]

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
