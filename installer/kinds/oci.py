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
REF_NAME = "org.opencontainers.image.ref.name"
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
        has = sorted({f"{p.get('os')}/{p.get('architecture')}" for p in platforms.values()})
        raise InputError(
            f"the image is not made for linux/{arch}, only for {', '.join(has) or 'nothing'}",
            remedy="Choose an image for the target's processor.",
        )
    return min(fits, key=lambda d: len(fits[d].get("variant", "")))  # the one without a variant runs everywhere


@dataclass(frozen=True)
class Listed:
    """One image of a list of platforms: its manifest as the list names it, and ``label`` (os/arch/variant) for people."""

    digest: str
    label: str


def listed(raw: bytes) -> tuple[Listed, ...]:
    """Every image that a list of platforms names, in its order; empty when ``raw`` is no list."""
    data = _load(raw)
    if data.get("mediaType") not in (OCI_INDEX, DOCKER_LIST) and "manifests" not in data:
        return ()
    found = []
    for entry in _list(data, "manifests"):
        p = _platform(entry)
        label = "/".join(p[k] for k in ("os", "architecture", "variant") if p.get(k))
        found.append(Listed(f"sha256:{_blob(entry).sha256}", label or "unknown"))
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
        entries.append(told | ({"platform": _platform(entry)} if _platform(entry) else {}))
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def as_oci(raw: bytes, *, uncompressed: bool = False) -> bytes:
    """The manifest in OCI's media types; an OCI manifest stays as it is, byte for byte.

    Args:
        uncompressed: a Docker archive hands its layers out as plain tar and calls them gzip; call them what they are.

    Raises:
        InputError: another format.
    """
    data = _load(raw)
    if _is_oci(data):
        return raw
    if data.get("mediaType") != DOCKER_MANIFEST:
        raise InputError(
            f"cannot carry a manifest of type {data.get('mediaType') or 'unknown'}",
            remedy="Push the image again in the OCI format.",
        )
    layers = [{**_plain(one), "mediaType": _layer_type(one, uncompressed)} for one in _list(data, "layers")]
    config = {**_plain(data.get("config")), "mediaType": OCI_CONFIG}
    return dump({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers})


def contents(raw: bytes) -> Contents:
    """Config and layers of an OCI manifest.

    Raises:
        InputError: it is none, or a layer is not in the registry but elsewhere.
    """
    data = _load(raw)
    if not _is_oci(data):
        raise InputError("this is not an OCI image manifest", remedy="Lock again.")
    layers = _list(data, "layers")
    for layer in layers:
        if layer.get("urls") or "nondistributable" in str(layer.get("mediaType")):
            raise InputError(
                "a layer may not be distributed or lies outside the registry",
                remedy="Use an image that holds all of its layers.",
            )
    return Contents(_blob(data["config"]), tuple(_blob(one) for one in layers))


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


def _is_oci(data: dict[str, Any]) -> bool:
    config = data.get("config")
    named = data.get("mediaType", OCI_MANIFEST) == OCI_MANIFEST  # OCI lets the manifest leave its own type out
    return named and isinstance(config, dict) and config.get("mediaType") == OCI_CONFIG


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
