"""Images with all their platforms: the registry's list, and every image that it names."""

from __future__ import annotations

import hashlib

from engine.errors import InputError, TrustError
from installer.definition import Image
from installer.kinds import Work, oci, skopeo
from installer.lockfile import Artifact
from installer.network.host import Network

UNREAD = "an attestation of the image's builder, carried as it is; nothing here reads or checks it"


def resolve(image: Image, network: Network) -> list[Artifact]:
    """The list first, then manifest, config and layers of each platform; nothing but manifests is downloaded.

    Raises:
        InputError: the source is no registry, or has no list of platforms.
        TrustError: the registry serves a manifest with another digest than asked for.
        UpstreamError: it does not answer.
    """
    skopeo.plain_http(image)
    if not skopeo.is_registry(image.source):
        raise InputError(
            f"images: {image.name}: all platforms can be taken from a registry only",
            remedy="Leave platforms out, or give a docker:// source.",
        )
    registry = skopeo.Registry.parse(image.source)
    raw = skopeo.manifest(image, registry.at(registry.digest) if registry.digest else image.source, network)
    _require(image, raw, registry.digest)
    document, parts = _list(image, registry, raw, network)
    pinned = registry.at(_digest(raw))
    found = [_artifact(image, pinned, image.name, oci.Blob(hashlib.sha256(document).hexdigest(), len(document)))]
    for listed, manifest in parts:
        name = f"{image.name} {listed.label}"
        found += artifacts(image, registry.at(listed.digest), name, manifest, attestation=bool(listed.attestation))
    return found


def fetch(work: Work, image: Image, artifact: Artifact) -> None:
    """Bring the locked list itself in; it is made again from the registry's manifests.

    Raises:
        TrustError: the registry has another list than the locked one.
        UpstreamError: it is gone or does not answer.
    """
    registry = skopeo.Registry.parse(artifact.source)
    raw = skopeo.manifest(image, artifact.source, work.network)
    _require(image, raw, registry.digest)
    document, _ = _list(image, registry, raw, work.network)
    with work.cache.incoming(artifact.sha256, artifact.size) as incoming:
        if not incoming.complete:
            incoming.restart()
            incoming.write(document)


def artifacts(image: Image, source: str, name: str, manifest: bytes, *, attestation: bool = False) -> list[Artifact]:
    """Manifest, config and layers of one image or attestation, the manifest under ``name``."""
    inside = oci.contents(manifest, attestation=attestation)
    total = len(inside.layers)
    note = (UNREAD,) if attestation else ()
    blob = oci.Blob(hashlib.sha256(manifest).hexdigest(), len(manifest))
    return [
        _artifact(image, source, name, blob).model_copy(update={"notes": note}),
        _artifact(image, source, f"{name} config", inside.config),
        *(_artifact(image, source, f"{name} layer {n} of {total}", layer) for n, layer in enumerate(inside.layers, 1)),
    ]


def _list(
    image: Image, registry: skopeo.Registry, raw: bytes, network: Network
) -> tuple[bytes, list[tuple[oci.Listed, bytes]]]:
    """The list in OCI's form, and the manifest of each image that it names."""
    listed = oci.listed(raw)
    if not listed:
        raise InputError(
            f"images: {image.name} has no list of platforms", where=image.source, remedy="Leave platforms out."
        )
    parts, blobs = [], {}
    for one in listed:
        manifest = skopeo.manifest(image, registry.at(one.digest), network)
        _require(image, manifest, one.digest)
        document = oci.as_oci(manifest, attestation=bool(one.attestation))
        parts.append((one, document))
        blobs[one.digest] = oci.Blob(hashlib.sha256(document).hexdigest(), len(document))
    return oci.list_as_oci(raw, blobs), parts


def _require(image: Image, raw: bytes, digest: str) -> None:
    if digest and _digest(raw) != digest:
        raise TrustError(
            f"image {image.name}: the registry serves a manifest with another digest: {_digest(raw)}",
            where=image.source,
            remedy="Do not use this registry; it or the way to it is damaged or tampered with.",
        )


def _digest(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _artifact(image: Image, source: str, name: str, blob: oci.Blob) -> Artifact:
    return Artifact(
        path=f"images/blobs/sha256/{blob.sha256}", kind="images", group=image.name, name=name,
        version=skopeo.Registry.parse(image.source).tag if skopeo.is_registry(image.source) else "",
        size=blob.size, sha256=blob.sha256, source=source, licence=image.licence, profiles=image.profiles,
    )  # fmt: skip
