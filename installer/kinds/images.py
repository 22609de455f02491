"""Container images: pinned by digest, locked blob by blob, carried as one OCI layout that podman and skopeo read.

Of an image's artifacts the manifest has the image's own name; config and layers say what they are in theirs.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine import durable
from engine.download import Item
from engine.errors import InputError, TrustError
from installer.definition import Image
from installer.kinds import Work, imagelist, oci, place, skopeo
from installer.lockfile import Artifact


def resolve(work: Work) -> list[Artifact]:
    """Pin every image to the manifest for the target's processor and list the blobs it names.

    Images in a registry are not downloaded for this. Blobs that images share are listed for each; the lock keeps one.

    Raises:
        InputError: an image is not made for the target, has a format that cannot be carried, or stands there twice.
        UpstreamError: a source does not answer.
    """
    found: list[Artifact] = []
    named: dict[str, str] = {}  # manifest: image
    for image in work.definition.images:
        mine = _resolved(work, image)
        other = named.setdefault(mine[0].sha256, image.name)
        if other != image.name:
            raise InputError(
                f"images: {other} and {image.name} are the same image", remedy="Remove one from the definition."
            )
        found += mine
    return found


def _resolved(work: Work, image: Image) -> list[Artifact]:
    try:
        return imagelist.resolve(image, work.network) if image.platforms == "all" else _one(work, image)
    except InputError as error:  # what is wrong with a document does not know whose it is
        if error.where or image.name in error.what:
            raise
        raise InputError(f"image {image.name}: {error.what}", where=image.source, remedy=error.remedy) from error


def _one(work: Work, image: Image) -> list[Artifact]:
    source, raw = _pin(work, image)
    document = oci.as_oci(raw, uncompressed=_uncompressed(source))
    return imagelist.artifacts(image, source, image.name, document)


def _pin(work: Work, image: Image) -> tuple[str, bytes]:
    """The address that always means this one image, and its manifest as the source has it."""
    skopeo.plain_http(image)
    arch = skopeo.ARCH[work.definition.target.arch]
    if not skopeo.is_registry(image.source):
        source = skopeo.absolute(image.source, work.base)
        with _temporary(work) as scratch:
            return source, skopeo.pull(image, source, arch, Path(scratch) / "image", work.network)
    registry = skopeo.Registry.parse(image.source)
    raw = skopeo.manifest(image, registry.at(registry.digest) if registry.digest else image.source, work.network)
    if chosen := oci.choose(raw, arch):
        raw = skopeo.manifest(image, registry.at(chosen), work.network)
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    if digest != (chosen or registry.digest or digest):
        raise TrustError(
            f"image {image.name}: the registry serves a manifest with another digest: {digest}",
            where=image.source,
            remedy="Do not use this registry; it or the way to it is damaged or tampered with.",
        )
    return registry.at(digest), raw


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Bring the locked blobs in; an image that is here already is not asked for again.

    Raises:
        TrustError: the source has another image than the locked one.
        UpstreamError: it is gone or does not answer.
    """
    images = {i.name: i for i in work.definition.images}
    missing: dict[tuple[str, str], list[Artifact]] = {}
    for artifact in artifacts:
        if not work.cache.has(artifact.sha256, artifact.size):
            missing.setdefault((artifact.group, artifact.source), []).append(artifact)
    for (group, source), wanted in missing.items():
        if images[group].platforms == "all" and wanted[0].name == group:
            imagelist.fetch(work, images[group], wanted[0])
        else:
            _fetch(work, images[group], source, wanted)


def _fetch(work: Work, image: Image, source: str, wanted: Sequence[Artifact]) -> None:
    with _temporary(work) as name:
        directory = Path(name) / "image"
        work.report.say(f"image {image.name}: copying from {source}")
        raw = skopeo.pull(image, source, skopeo.ARCH[work.definition.target.arch], directory, work.network)
        attestation = any(imagelist.UNREAD in a.notes for a in wanted)
        manifest = oci.as_oci(raw, uncompressed=_uncompressed(source), attestation=attestation)
        (directory / hashlib.sha256(manifest).hexdigest()).write_bytes(manifest)
        for artifact in wanted:
            if not (directory / artifact.sha256).is_file():
                raise TrustError(
                    f"image {image.name}: the source has another image than the locked one: {artifact.name} is not in it",
                    where=source,
                    remedy="If the change is meant, lock again and review it.",
                )
        local = [Item(a.name, (directory / a.sha256).as_uri(), a.sha256, a.size) for a in wanted]
        work.downloader().fetch_all(local, task=f"image {image.name}")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Manifests and lock name the same blobs, and every image is made for the target.

    Raises:
        TrustError: the lock has a blob that no manifest names, or lacks one.
        InputError: an image is for another processor.
    """
    locked = {a.sha256: a.size for a in artifacts}
    unnamed = dict.fromkeys(locked)
    wanted = f"linux/{skopeo.ARCH[work.definition.target.arch]}"
    for artifact in _manifests(work, artifacts):
        top = oci.Blob(artifact.sha256, artifact.size)
        document = _read(work, top)
        manifests = [
            (oci.Blob(sha256 := d.digest.removeprefix("sha256:"), locked.get(sha256, -1)), bool(d.attestation))
            for d in oci.listed(document)
        ]
        made_for = set()
        for blob, attestation in manifests or [(top, False)]:
            _require_locked(locked, artifact, blob)
            inside = oci.contents(_read(work, blob), attestation=attestation)
            for part in (inside.config, *inside.layers):
                _require_locked(locked, artifact, part)
                unnamed.pop(part.sha256, None)
            if not attestation:
                made_for.add(oci.platform(_read(work, inside.config)))
            unnamed.pop(blob.sha256, None)
        unnamed.pop(top.sha256, None)
        if wanted not in made_for:
            raise InputError(
                f"image {artifact.group} is made for {', '.join(sorted(made_for))}, the target is {wanted}",
                remedy="Choose an image for the target's processor.",
            )
    if unnamed:
        raise TrustError(f"images: no manifest names the locked blob {next(iter(unnamed))}", remedy="Lock again.")


def _require_locked(locked: dict[str, int], artifact: Artifact, blob: oci.Blob) -> None:
    if locked.get(blob.sha256) != blob.size:
        raise TrustError(
            f"image {artifact.group}: the lock does not have sha256:{blob.sha256} of {blob.size} bytes",
            where=artifact.path,
            remedy="Lock again.",
        )


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    """One OCI layout below ``content/images`` with every image under its name."""
    if not artifacts:
        return
    place(work, artifacts, content)
    lists = {i.name for i in work.definition.images if i.platforms == "all"}
    manifests = [
        (a.group, oci.Blob(a.sha256, a.size), oci.OCI_INDEX if a.group in lists else oci.OCI_MANIFEST)
        for a in _manifests(work, artifacts)
    ]
    durable.write(content / "images/oci-layout", oci.LAYOUT)
    durable.write(content / "images/index.json", oci.index(manifests))


def _manifests(work: Work, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The manifest of every image of the definition."""
    by_name = {a.name: a for a in artifacts if a.name == a.group}
    for image in work.definition.images:
        if image.name not in by_name:
            raise TrustError(f"images: the lock has no manifest of {image.name}", remedy="Lock again.")
    return [by_name[name] for name in sorted(by_name)]


def _read(work: Work, blob: oci.Blob) -> bytes:
    if blob.size > oci.MAX_DOCUMENT:
        raise TrustError(
            f"images: {blob.size} bytes are too many for a manifest or config", remedy="Use another image."
        )
    return work.cache.path(blob.sha256).read_bytes()


def _temporary(work: Work) -> tempfile.TemporaryDirectory[str]:
    """A directory beside the cache's blobs: images are large, and /tmp is often memory."""
    work.cache.root.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="image-", dir=work.cache.root)


def _uncompressed(source: str) -> bool:
    return source.startswith("docker-archive:")
