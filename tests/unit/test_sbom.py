"""The bill of materials names everything, is valid CycloneDX, and is the same twice; a comparison names what changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from installer.definition import Definition
from installer.evidence import sbom
from installer.evidence.contents import changes
from installer.lockfile import Artifact, Kind, Lock
from tests.unit.test_evidence import SHA

DEFINITION = Definition.model_validate(
    {"schema": 1, "name": "ours", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}}
)


def artifact(path: str, name: str, kind: Kind, **more: Any) -> Artifact:
    told = {"size": 7, "sha256": SHA, "source": f"https://example.test/{name}", "profiles": ("gpu",), **more}
    return Artifact(path=path, name=name, kind=kind, **told)


ARTIFACTS = (
    artifact("wheels/vllm/a-1.0-py3-none-any.whl", "a", "wheels", group="vllm", version="1.0", licence="MIT"),
    artifact(
        "wheels/vllm/b-2.0-py3-none-any.whl",
        "b",
        "wheels",
        group="vllm",
        version="2.0",
        licence="Some words <b>of</b> their own",
    ),
    artifact("debs/pool/nginx_1.2-3_amd64.deb", "nginx", "debs", version="1.2-3"),
    artifact("debs/evidence/x/InRelease", "InRelease", "debs", group="evidence"),
    artifact("models/tiny/model.safetensors", "tiny", "models", group="tiny", version="abc", licence="apache-2.0"),
    artifact(
        "models/tiny/config.json", "tiny", "models", group="tiny", version="abc", notes=("waiver licence: because",)
    ),
    artifact("images/blobs/sha256/aa", "tool", "images", group="tool", version="sha256:aa"),
    artifact("files/f", "f", "files"),
)


def lock(*artifacts: Artifact) -> Lock:
    return Lock(name="ours", version="1.0.0", definition_sha256=SHA, artifacts=artifacts)


@pytest.fixture
def bill() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sbom.text(DEFINITION, lock(*ARTIFACTS), 0))
    return document


def test_it_is_valid_cyclonedx() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.text(DEFINITION, lock(*ARTIFACTS), 0)) is None


def test_every_artifact_is_in_it_with_its_hash(bill: dict[str, Any]) -> None:
    flat = [*bill["components"], *(n for c in bill["components"] for n in c.get("components", []))]
    refs = {c["bom-ref"] for c in flat}
    assert refs == {a.path for a in ARTIFACTS if a.group != "evidence"} | {"models/tiny", "images/tool"}
    assert all(
        c["hashes"] == [{"alg": "SHA-256", "content": SHA}]
        for c in flat
        if c["bom-ref"] not in ("models/tiny", "images/tool")
    )


def test_packages_have_addresses_that_scanners_know(bill: dict[str, Any]) -> None:
    purls = {c.get("purl") for c in bill["components"]} - {None}
    assert "pkg:pypi/a@1.0" in purls
    assert "pkg:deb/debian/nginx@1.2-3?arch=amd64&distro=debian-12" in purls


def test_a_licence_is_an_expression_where_it_is_one_else_words(bill: dict[str, Any]) -> None:
    told = {c["name"]: c.get("licenses") for c in bill["components"]}
    assert told["a"] == [{"expression": "MIT"}]
    assert told["b"] == [{"license": {"name": "Some words <b>of</b> their own"}}]
    assert told["nginx"] is None


def test_the_same_lock_gives_the_same_bytes_and_another_lock_another_serial_number() -> None:
    one, again = (sbom.text(DEFINITION, lock(*ARTIFACTS), 0) for _ in range(2))
    assert one == again
    other = json.loads(sbom.text(DEFINITION, lock(*ARTIFACTS[1:]), 0))
    assert other["serialNumber"] != json.loads(one)["serialNumber"]


def test_changes_are_named_by_package_not_by_file_name() -> None:
    newer = artifact(
        "wheels/vllm/a-1.1-py3-none-any.whl",
        "a",
        "wheels",
        group="vllm",
        version="1.1",
        licence="GPL-3.0",
        sha256="1" * 64,
    )
    added = artifact("files/g", "g", "files")
    found = changes(lock(*ARTIFACTS), lock(newer, *ARTIFACTS[1:-1], added))
    assert [(c.what, c.kind, c.name, c.fields) for c in found] == [
        ("removed", "files", "files/f", ()),
        ("added", "files", "files/g", ()),
        ("changed", "wheels", "a", ("version", "sha256", "licence")),
    ]
    assert changes(lock(*ARTIFACTS), lock(*ARTIFACTS)) == []
