"""Manifests as data: platforms, Docker's format in OCI's words, and what is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from engine.errors import InputError
from installer.definition import Image
from installer.kinds import oci, skopeo

M = oci.OCI_MANIFEST

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


def descriptor(media_type: str, seed: str = "x", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(seed.encode()).hexdigest(), "size": 7, **more}


def docker(*layers: dict[str, Any]) -> bytes:
    manifest = {"schemaVersion": 2, "mediaType": oci.DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG, "c")}
    return json.dumps({**manifest, "layers": list(layers)}).encode()


def oci_manifest(*layers: dict[str, Any], **more: Any) -> bytes:
    data = {"schemaVersion": 2, "config": descriptor(oci.OCI_CONFIG, "c"), "layers": list(layers), **more}
    return json.dumps(data, indent=3).encode()


def listing(*platforms: tuple[str, str, str], media_type: str = oci.OCI_INDEX) -> bytes:
    manifests = [
        descriptor(oci.OCI_MANIFEST, f"{o}{a}{v}", platform={"os": o, "architecture": a, **({"variant": v} if v else {})})
        for o, a, v in platforms
    ]  # fmt: skip
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode()


def digest(seed: str) -> str:
    return "sha256:" + hashlib.sha256(seed.encode()).hexdigest()


def test_an_oci_manifest_keeps_its_bytes() -> None:
    for raw in (oci_manifest(), oci_manifest(mediaType=oci.OCI_MANIFEST, annotations={"a": "b"})):
        assert oci.as_oci(raw) == raw


def test_dockers_manifest_keeps_config_and_layers_and_says_them_in_ocis_types() -> None:
    kinds = {".gzip": "+gzip", ".zstd": "+zstd", "": ""}
    raw = docker(*(descriptor(oci.DOCKER_LAYER + k, k) for k in kinds))
    said = json.loads(oci.as_oci(raw))
    assert said["mediaType"] == oci.OCI_MANIFEST
    assert said["config"] == descriptor(oci.OCI_CONFIG, "c")
    assert said["layers"] == [descriptor(oci.OCI_LAYER + v, k) for k, v in kinds.items()]
    assert oci.as_oci(raw) == oci.as_oci(json.dumps(json.loads(raw), indent=2).encode())


def test_a_docker_archives_layers_are_called_what_they_are() -> None:
    raw = docker(descriptor(oci.DOCKER_LAYER + ".gzip"))
    assert json.loads(oci.as_oci(raw, uncompressed=True))["layers"][0]["mediaType"] == oci.OCI_LAYER


@pytest.mark.parametrize("media_type", [oci.OCI_INDEX, oci.DOCKER_LIST])
def test_the_plain_variant_of_the_targets_platform_is_chosen(media_type: str) -> None:
    raw = listing(
        ("windows", "amd64", ""), ("unknown", "unknown", ""), ("linux", "amd64", "v3"), ("linux", "amd64", ""),
        ("linux", "arm64", "v8"), media_type=media_type,
    )  # fmt: skip
    assert oci.choose(raw, "amd64") == digest("linuxamd64")
    assert oci.choose(raw, "arm64") == digest("linuxarm64v8")
    assert oci.choose(oci_manifest(), "amd64") is None
    with pytest.raises(InputError, match="linux/riscv64"):
        oci.choose(raw, "riscv64")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(),
        oci_manifest(mediaType="application/vnd.example+json"),
        json.dumps({"schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"), "layers": []}).encode(),
        json.dumps({"mediaType": oci.DOCKER_MANIFEST, "config": None, "layers": []}).encode(),
        json.dumps({"mediaType": oci.DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG), "layers": "x"}).encode(),
        docker(descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")),
        docker({"mediaType": oci.DOCKER_LAYER, "digest": "sha256:../../../etc/passwd", "size": 1}),
        docker({"mediaType": oci.DOCKER_LAYER, "digest": "sha512:" + "a" * 128, "size": 1}),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError):
        oci.contents(oci.as_oci(raw))


@pytest.mark.parametrize(
    "layer",
    [
        descriptor(oci.OCI_LAYER, urls=["https://elsewhere.example.org/layer"]),
        descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
    ],
)
def test_a_layer_that_lies_elsewhere_is_refused(layer: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="outside the registry"):
        oci.contents(oci_manifest(layer))


def test_the_index_is_in_order_of_names() -> None:
    one, two = oci.Blob("a" * 64, 1), oci.Blob("b" * 64, 2)
    assert oci.index([("web", one, M), ("db", two, M)]) == oci.index([("db", two, M), ("web", one, M)])
    named = {
        m["annotations"][oci.REF_NAME]: m["digest"]
        for m in json.loads(oci.index([("web", one, M), ("db", two, M)]))["manifests"]
    }
    assert named == {"web": f"sha256:{'a' * 64}", "db": f"sha256:{'b' * 64}"}


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("docker://host:5000/team/web:1.2", ("host:5000/team/web", "1.2", "")),
        ("docker://host:5000/web", ("host:5000/web", "", "")),
        ("docker://web", ("web", "", "")),
        ("docker://host/web:1@sha256:abc", ("host/web", "1", "sha256:abc")),
    ],
)
def test_a_registrys_address_is_taken_apart(source: str, parts: tuple[str, str, str]) -> None:
    found = skopeo.Registry.parse(source)
    assert (found.repository, found.tag, found.digest) == parts
    assert found.at("sha256:def") == f"docker://{parts[0]}@sha256:def"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1:5000", True), ("localhost", True), ("[::1]:5000", True), ("127.1.2.3", True), ("10.0.0.1:5000", False),
     ("localhost.example.org", False), ("127.0.0.1.example.org", False), ("[::ffff:10.0.0.1]:80", False)],
)  # fmt: skip
def test_only_loopback_may_do_without_tls(host: str, loopback: bool) -> None:
    image = Image(name="web", source=f"docker://{host}/web:1", tls_verify=False, profiles=("gpu",))
    if loopback:
        assert skopeo.plain_http(image) is True
    else:
        with pytest.raises(InputError, match="loopback"):
            skopeo.plain_http(image)
