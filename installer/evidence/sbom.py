"""``sbom/bundle.cdx.json``: one CycloneDX bill of materials for everything in the bundle.

Written with the project's own library, which is a builder's dependency; who reads it needs JSON only. Nothing in it depends
on when or where it was made: the serial number comes from the lock, the time is the bundle's.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.exceptions import InvalidLicenseExpressionException
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

import installer
from engine import durable
from installer.definition import Definition
from installer.evidence.imagefiles import Inside
from installer.kinds import debevidence
from installer.lockfile import Artifact, Lock

NAMESPACE = uuid.UUID("5f6d7f0e-9f0c-5d4e-8a53-0d3c6f1f7a10")  # ours, for serial numbers that follow from locks
PATH = "sbom/bundle.cdx.json"


def write(
    definition: Definition, lock: Lock, content: Path, epoch: int, inside: Mapping[str, Inside] | None = None
) -> None:
    """Write the bill of ``lock``; ``epoch`` is the bundle's time in seconds since 1970."""
    durable.write(content / PATH, text(definition, lock, epoch, inside))


def text(definition: Definition, lock: Lock, epoch: int, inside: Mapping[str, Inside] | None = None) -> str:
    """CycloneDX 1.6 as JSON, the same for the same lock. ``inside`` is what was read from the images, by their names."""
    about = Component(
        name=lock.name, version=lock.version, type=ComponentType.APPLICATION, bom_ref="bundle",
        description=definition.description or None,
    )  # fmt: skip
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, lock.model_dump_json(by_alias=True)))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = about
    tool = Component(name="appliance", version=installer.__version__, type=ComponentType.APPLICATION, bom_ref="tool")
    bom.metadata.tools = ToolRepository(components=[tool])
    components = list(_components(definition, lock, inside or {}))
    bom.components = components  # the library sorts them into a set of its own
    # Not register_dependency, which looks through all for each: 20 000 files would take minutes.
    leaves = [Dependency(c.bom_ref) for c in components]
    bom.dependencies = [Dependency(about.bom_ref, leaves), *leaves]
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def _components(definition: Definition, lock: Lock, inside: Mapping[str, Inside]) -> Iterable[Component]:
    for artifact in lock.artifacts:
        if artifact.kind not in ("models", "images") and not debevidence.is_evidence(artifact):
            yield _component(
                artifact,
                ComponentType.LIBRARY if artifact.kind != "files" else ComponentType.FILE,
                _purl(definition, artifact),
            )
    for kind, type_ in (("models", ComponentType.MACHINE_LEARNING_MODEL), ("images", ComponentType.CONTAINER)):
        groups: dict[str, list[Artifact]] = {}
        for artifact in lock.artifacts:
            if artifact.kind == kind:
                groups.setdefault(artifact.group or artifact.name, []).append(artifact)
        for name, files in sorted(groups.items()):
            yield _group(name, type_, files, inside.get(name, Inside()) if kind == "images" else Inside())


def _group(name: str, type_: ComponentType, files: list[Artifact], inside: Inside) -> Component:
    """A model or an image with its files below it, and the packages that an image holds."""
    first = files[0]
    return Component(
        name=name, version=first.version or None, type=type_, group=first.kind, bom_ref=f"{first.kind}/{name}",
        licenses=_licences(next((f.licence for f in files if f.licence), inside.label)),
        properties=_properties(first, sum(f.size for f in files)),
        components=[*(_component(f, ComponentType.FILE, None) for f in files), *_packages(name, inside)],
    )  # fmt: skip


def _packages(image: str, inside: Inside) -> Iterable[Component]:
    """Packages inside an image, named as scanners look them up."""
    system, _, _ = inside.distribution.partition("-")
    for package in inside.packages:
        told = {"arch": package.arch, "distro": inside.distribution if package.type != "pypi" else ""}
        purl = PackageURL(
            package.type, None if package.type == "pypi" else system or None, package.name, package.version,
            {k: v for k, v in told.items() if v},
        )  # fmt: skip
        yield Component(
            name=package.name, version=package.version, type=ComponentType.LIBRARY, purl=purl,
            bom_ref=f"images/{image}#{purl}", licenses=_licences(package.licence),
        )  # fmt: skip


def _component(artifact: Artifact, type_: ComponentType, purl: PackageURL | None) -> Component:
    name = artifact.name if purl else artifact.path.rsplit("/", 1)[-1]
    return Component(
        name=name, version=artifact.version or None, type=type_, group=artifact.kind, purl=purl, bom_ref=artifact.path,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=artifact.sha256)], licenses=_licences(artifact.licence),
        properties=[*_properties(artifact, artifact.size), Property(name="appliance:path", value=f"content/{artifact.path}")],
    )  # fmt: skip


def _properties(artifact: Artifact, size: int) -> list[Property]:
    told = {
        "appliance:kind": artifact.kind,
        "appliance:size": str(size),
        "appliance:source": artifact.source,
        "appliance:profiles": " ".join(artifact.profiles),
        **{f"appliance:note:{n}": note for n, note in enumerate(artifact.notes)},
    }
    return [Property(name=k, value=v) for k, v in told.items() if v]


def _licences(licence: str) -> list[LicenseExpression]:
    """An SPDX expression where it is one, else the words of the source."""
    if not licence:
        return []
    factory = LicenseFactory()
    try:
        return [factory.make_with_expression(licence)]
    except InvalidLicenseExpressionException:
        return [factory.make_with_name(licence[:500])]  # type: ignore[list-item]  # both kinds are licences to the library


def _purl(definition: Definition, artifact: Artifact) -> PackageURL:
    if artifact.path.endswith(".whl"):
        return PackageURL("pypi", name=artifact.name, version=artifact.version)
    if artifact.kind == "debs":
        system, _, release = definition.target.os.partition("-")
        arch = artifact.path.removesuffix(".deb").rpartition("_")[2]
        distro = {"arch": arch, "distro": f"{system}-{release}"}
        return PackageURL("deb", system, artifact.name, artifact.version, distro)
    return PackageURL(
        "generic",
        name=artifact.name,
        version=artifact.version or None,
        qualifiers={"checksum": f"sha256:{artifact.sha256}"},
    )
