"""Image manifests as data: pick a platform, read what an image consists of, write an OCI index. No I/O.

Registries also hand out Docker's own manifest format, in which most images still are. An OCI layout with such a manifest
cannot be used: skopeo and podman look a name up among OCI manifests only. ``as_oci`` therefore says the same image in
OCI's media types. Config and layers keep their bytes, so the image ID stays the one the vendor published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine import strictjson
from engine.errors import InputError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
LAYERS = ("application/vnd.oci.image.layer.", DOCKER_LAYER)  # how types of archives of files begin
REF_NAME = "org.opencontainers.image.ref.name"
ATTESTED = "vnd.docker.reference.digest"  # on an attestation in a list: the manifest that it is about
ATTESTS = ("vnd.docker.reference.type", "attestation-manifest")  # how BuildKit marks one
MAX_DOCUMENT = 4 << 20  # bytes of a manifest or config; registries refuse larger ones
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}\n'


@dataclass(frozen=True)
class Blob:
    """A file of an image; ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Contents:
    """What a manifest names."""

    config: Blob
    layers: tuple[Blob, ...]


def choose(raw: bytes, arch: str) -> str | None:
    """The digest (``sha256:…``) of the linux image for ``arch`` in a list of platforms; None when ``raw`` is no list.

    Args:
        arch: as Go names it: amd64, arm64.

    Raises:
        InputError: the list has no image for it.
    """
    data = _load(raw)
    if data.get("mediaType") not in (OCI_INDEX, DOCKER_LIST) and "manifests" not in data:
        return None
    platforms = {f"sha256:{_blob(m).sha256}": _platform(m) for m in _list(data, "manifests")}
    fits = {d: p for d, p in platforms.items() if (p.get("os"), p.get("architecture")) == ("linux", arch)}
    if not fits:
        attests = {f"sha256:{_blob(m).sha256}" for m in _list(data, "manifests") if _is_attestation(m)}
        has = sorted({f"{p.get('os')}/{p.get('architecture')}" for d, p in platforms.items() if d not in attests})
        raise InputError(
            f"the image is not made for linux/{arch}, only for {', '.join(has) or 'nothing'}",
            remedy="Choose an image for the target's processor.",
        )
    return min(fits, key=lambda d: len(fits[d].get("variant", "")))  # the one without a variant runs everywhere


@dataclass(frozen=True)
class Listed:
    """One entry of a list of platforms: its manifest as the list names it, and ``label`` (os/arch/variant) for people.

    ``attestation`` is the digest of the image that it only says something about (provenance, a bill of materials), or
    ``unknown``; empty for an image.
    """

    digest: str
    label: str
    attestation: str = ""


def listed(raw: bytes) -> tuple[Listed, ...]:
    """Every image and attestation that a list of platforms names, in its order; empty when ``raw`` is no list."""
    data = _load(raw)
    if data.get("mediaType") not in (OCI_INDEX, DOCKER_LIST) and "manifests" not in data:
        return ()
    entries = [(f"sha256:{_blob(e).sha256}", e) for e in _list(data, "manifests")]
    labels = {
        digest: "/".join(p[k] for k in ("os", "architecture", "variant") if (p := _platform(e)).get(k)) or "unknown"
        for digest, e in entries
    }
    found = []
    for digest, entry in entries:
        if not _is_attestation(entry):
            found.append(Listed(digest, labels[digest]))
            continue
        of = str(_annotations(entry).get(ATTESTED, ""))
        if of not in labels or of == digest:
            of = "unknown"
        # Several may be about one image; the names in a lock tell them apart.
        number = sum(one.attestation == of for one in found)
        label = f"{labels.get(of, 'unknown')} attestation{f' {number + 1}' if number else ''}"
        found.append(Listed(digest, label, of))
    return tuple(found)


def list_as_oci(raw: bytes, manifests: dict[str, Blob]) -> bytes:
    """The list in OCI's media types with its manifests as ``as_oci`` says them; an OCI list of such stays byte for byte.

    Args:
        manifests: what each digest of the list (``sha256:…``) has become.
    """
    data = _load(raw)
    same = all(digest == f"sha256:{blob.sha256}" for digest, blob in manifests.items())
    if same and data.get("mediaType", OCI_INDEX) == OCI_INDEX:
        return raw
    entries = []
    for entry in _list(data, "manifests"):
        blob = manifests[f"sha256:{_blob(entry).sha256}"]
        told: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{blob.sha256}", "size": blob.size}
        entries.append(
            told
            | ({"platform": _platform(entry)} if _platform(entry) else {})
            | ({"annotations": _renamed(_annotations(entry), manifests)} if _is_attestation(entry) else {})
        )
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _renamed(annotations: dict[str, Any], manifests: dict[str, Blob]) -> dict[str, Any]:
    of = annotations.get(ATTESTED)
    return annotations | (
        {ATTESTED: f"sha256:{manifests[of].sha256}"} if isinstance(of, str) and of in manifests else {}
    )


def as_oci(raw: bytes, *, uncompressed: bool = False, attestation: bool = False) -> bytes:
    """The manifest in OCI's media types; an OCI manifest stays as it is, byte for byte.

    Args:
        attestation: it is one, whose config and layers are of types of its own.
        uncompressed: a Docker archive hands its layers out as plain tar and calls them gzip; call them what they are.

    Raises:
        InputError: another format.
    """
    data = _load(raw)
    if _is_oci(data, attestation):
        return raw
    if data.get("mediaType") != DOCKER_MANIFEST:
        raise InputError(
            f"cannot carry a manifest of type {data.get('mediaType') or 'unknown'}",
            remedy="Push the image again in the OCI format.",
        )
    layers = [{**_plain(one), "mediaType": _layer_type(one, uncompressed)} for one in _own_layers(data)]
    config = {**_plain(data.get("config")), "mediaType": OCI_CONFIG}
    return dump({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})


def contents(raw: bytes, *, attestation: bool = False) -> Contents:
    """Config and layers of an OCI manifest; with ``attestation`` its config may be of any type.

    Raises:
        InputError: it is none, or a layer is not in the registry but elsewhere.
    """
    data = _load(raw)
    if not _is_oci(data, attestation):
        raise InputError("this is not an OCI image manifest", remedy="Lock again.")
    layers = _own_layers(data)
    return Contents(_blob(data["config"]), tuple(_blob(one) for one in layers))


def require_own_layers(raw: bytes) -> tuple[Blob, ...]:
    """No layer of a manifest, in OCI's form or Docker's, lies outside of its source: tools would fetch it from the address that it gives.

    Returns:
        Its config and layers; nothing for a list of manifests.

    Raises:
        InputError: a layer does, or it is not a manifest.
    """
    data = _load(raw)
    if "manifests" in data and "layers" not in data:
        return ()
    config = [_blob(data["config"])] if isinstance(data.get("config"), dict) else []
    return (*config, *(_blob(layer) for layer in _own_layers(data)))


def _own_layers(data: dict[str, Any]) -> list[dict[str, Any]]:
    layers = _list(data, "layers")
    for layer in layers:
        if (
            layer.get("urls")
            or "nondistributable" in str(layer.get("mediaType"))
            or ".foreign." in str(layer.get("mediaType"))
        ):
            raise InputError(
                f"a layer may not be distributed or lies outside the registry: {str(layer.get('digest'))[:80]}",
                remedy="Use an image that holds all of its layers.",
            )
    return layers


def holds_files(raw: bytes) -> bool:
    """Whether a manifest is of an image, whose layers are archives of files; an attestation's are statements.

    Raises:
        InputError: it is not a manifest.
    """
    data = _load(raw)
    types = {str(layer.get("mediaType")) for layer in _list(data, "layers")}
    return _is_oci(data) and all(t.startswith(LAYERS) for t in types)


def platform(config: bytes) -> str:
    """OS/ARCH of an image config."""
    data = _load(config)
    return f"{data.get('os')}/{data.get('architecture')}"


def index(images: Iterable[tuple[str, Blob, str]]) -> bytes:
    """`index.json` of a layout: every image under its name, with its media type."""
    manifests = [
        {"mediaType": type_, "digest": f"sha256:{blob.sha256}", "size": blob.size, "annotations": {REF_NAME: name}}
        for name, blob, type_ in sorted(images, key=lambda one: one[0])
    ]
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def dump(data: dict[str, Any]) -> bytes:
    """JSON that depends on the data alone."""
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _platform(manifest: dict[str, Any]) -> dict[str, str]:
    found = manifest.get("platform")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _annotations(descriptor: dict[str, Any]) -> dict[str, Any]:
    found = descriptor.get("annotations")
    return found if isinstance(found, dict) else {}


def _is_attestation(entry: dict[str, Any]) -> bool:
    """Whether an entry of a list is not an image but something about one: marked by BuildKit, or an OCI artifact.

    What names a system and a processor is always an image, whatever else is written there.
    """
    runs = {_platform(entry).get(k, "unknown") for k in ("os", "architecture")} != {"unknown"}
    marked = _annotations(entry).get(ATTESTS[0]) == ATTESTS[1] or bool(entry.get("artifactType"))
    return not runs and (marked or bool(_platform(entry)))


def _is_oci(data: dict[str, Any], attestation: bool = False) -> bool:
    config = data.get("config")
    named = data.get("mediaType", OCI_MANIFEST) == OCI_MANIFEST  # OCI lets the manifest leave its own type out
    return named and isinstance(config, dict) and (attestation or config.get("mediaType") == OCI_CONFIG)


def _layer_type(layer: dict[str, Any], uncompressed: bool) -> str:
    name = str(layer.get("mediaType"))
    if uncompressed and name.startswith(DOCKER_LAYER):
        return OCI_LAYER
    ending = name.removeprefix(DOCKER_LAYER)
    known = {"": "", ".gzip": "+gzip", ".zstd": "+zstd"}
    if ending not in known:
        raise InputError(f"cannot carry a layer of type {name}", remedy="Use an image that holds all of its layers.")
    return OCI_LAYER + known[ending]


def _plain(descriptor: Any) -> dict[str, Any]:
    blob = _blob(descriptor)
    return {"digest": f"sha256:{blob.sha256}", "size": blob.size}


def _blob(descriptor: Any) -> Blob:
    if isinstance(descriptor, dict):
        digest, size = descriptor.get("digest"), descriptor.get("size")
        if isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest) and type(size) is int and size >= 0:
            return Blob(digest.removeprefix("sha256:"), size)
    raise InputError(
        f"the manifest names a blob without SHA-256 and size: {str(descriptor)[:120]}",
        remedy="Push the image again with a current tool.",
    )


def _list(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise InputError(f"the manifest has no list of {key}", remedy="Push the image again with a current tool.")
    return value


def _load(raw: bytes) -> dict[str, Any]:
    try:
        data = strictjson.loads(raw)
    except ValueError as error:
        raise InputError(f"the manifest is not JSON: {error}", remedy="Check what the source serves.") from error
    if not isinstance(data, dict):
        raise InputError("the manifest is not a JSON object", remedy="Check what the source serves.")
    return data
