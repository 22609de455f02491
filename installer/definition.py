"""The definition: what should be inside. Hand-written, `bundles/NAME.yml`."""

from __future__ import annotations

import datetime
import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.addresses import fault, secret_in
from installer import yamlfile
from installer.evidence import spdx

Name = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description="Lower-case letters, digits, dot, dash.")
]
Version = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+(\.[0-9]+){0,3}([a-z0-9.+-]{0,24})$",
        description="Numbers with dots, for example 1.4.0 or 1.4.0-rc1.",
    ),
]
Profile = Literal["gpu", "gateway", "monitoring", "control"]
Profiles = Annotated[tuple[Profile, ...], Field(min_length=1, description="Kinds of node that need this.")]


def _without_secrets(text: str) -> str:
    """A definition lies beside code and is copied into the signed manifest, so what opens a source stays outside of it."""
    for address in re.findall(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", text):
        if found := secret_in(address):
            raise ValueError(
                f"an address holds {found}; take it out and give the host a login: a line "
                "`machine HOST login USER password PASSWORD` in ~/.netrc (docs/fetching.md)"
            )
    return text


def _usable(text: str) -> str:
    """An address that can be asked; a directory may stand in its place where the field allows one."""
    if found := fault(text) if "://" in text or text.startswith(("http:", "https:", "file:")) else "":
        raise ValueError(found)
    return text


Open = Annotated[str, AfterValidator(_without_secrets)]  # text with addresses that hold no login, token or signature
Url = Annotated[Open, AfterValidator(_usable)]


def _spdx(text: str) -> str:
    if found := spdx.fault(text):
        raise ValueError(found)
    return text


Licence = Annotated[str, AfterValidator(_spdx)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)


class Gpu(_Strict):
    """The accelerators of the GPU nodes and what drives them; `appliance check` proves that these fit together."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="GPU models of the site, for example [h200]; docs/compatibility.md lists the names."
    )
    driver: Annotated[str, Field(pattern=r"^[0-9]{3}\.[0-9]{1,3}(\.[0-9]{1,3})?$")] = Field(
        description="Full version of the driver, for example 580.178.04."
    )
    kernel_modules: Literal["open", "proprietary"] = Field("open", description="Flavour of the kernel modules.")
    module_source: Literal["dkms", "prebuilt"] = Field(
        "dkms", description="Built on the node, or packages of signed modules for one kernel."
    )
    secure_boot: Literal["off", "mok", "signed"] = Field(
        "off", description="Off; on with the site's own enrolled key (mok); on with vendor-signed modules (signed)."
    )
    mig: tuple[Annotated[str, Field(pattern=r"^[1-7]g\.[0-9]{1,3}gb([+-][a-z.]{1,12})?$")], ...] = Field(
        (), description="MIG instances of one GPU, for example [3g.71gb, 3g.71gb]; empty leaves GPUs whole."
    )
    nvswitch: bool | None = Field(
        None, description="Whether the GPUs hang on NVSwitch; taken from the model when left out."
    )
    fabric_manager: Annotated[str, Field(pattern=r"^[0-9]{3}\.[0-9]{1,3}(\.[0-9]{1,3})?$")] | None = Field(
        None, description="Full version of the fabric manager (and NSCQ); needed with NVSwitch."
    )


class Target(_Strict):
    """The machine the content is for; it need not be like the builder."""

    os: Literal["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"] = Field(
        description="Operating system of the nodes."
    )
    arch: Literal["x86_64", "aarch64"] = Field("x86_64", description="Processor of the nodes.")
    python: Annotated[str, Field(pattern=r"^3\.(1[1-9])$")] = Field(
        description="CPython version of the nodes, for example 3.11."
    )
    kernel: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+[a-z0-9.+~-]{0,60}$")] | None = Field(
        None, description="Kernel of the nodes as `uname -r` prints it, for example 6.8.0-90-generic."
    )
    gpu: Gpu | None = Field(None, description="GPUs of the nodes; left out when there are none.")

    @field_validator("os", mode="before")
    @classmethod
    def _no_rpm(cls, given: Any) -> Any:
        if isinstance(given, str) and re.match(
            r"(rhel|red ?hat|rocky|alma(linux)?|centos|oracle|fedora|sles)\b", given.lower()
        ):
            raise ValueError(
                f"{given} is not supported: packages of nodes are Debian packages (docs/platforms.md says what it would take)"
            )
        return given


class DirectWheel(_Strict):
    """A wheel that no index offers, by address and hash. Its name, version and dependencies are its own."""

    url: Annotated[Url, Field(pattern=r"^(https?|file):.*\.whl$")] = Field(
        description="Where it is; file: may be relative to the definition."
    )
    sha256: Annotated[
        str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the wheel; any other file is refused.")
    ]


class WheelWaiver(_Strict):
    """Files that two wheels of the set may both install with different content, and why that does no harm.

    Those of the wheel whose distribution's name sorts last stay, in the runtime image and on nodes alike.
    """

    rule: Literal["overwrite"] = Field(description="The rule that is waived.")
    paths: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="As the refusal names them; * stands for anything, slashes too, for example tests/*."
    )
    reason: Annotated[str, Field(min_length=10, description="Recorded in the lock and in the bundle's manifest.")]


class WheelSet(_Strict):
    """One Python environment: its requirements and everything they need."""

    name: Name = Field(description="Name of the set; `runtime` of a site names the one that serves models.")
    requirements: Annotated[tuple[Open, ...], Field(min_length=1, description="As in a requirements file.")]
    constraints: tuple[Open, ...] = Field((), description="Limits on versions of anything pulled in.")
    pins: Annotated[str, Field(pattern=r"^[^\x00-\x1f]*$")] = Field(
        "",
        description="File, relative to the definition, with the version and SHA-256 of every wheel of the set; `lock` refuses "
        "anything else. It names no address, so it can be committed. Made by `appliance lock --write-pins`.",
    )
    direct: tuple[DirectWheel, ...] = Field(
        (), description="Wheels by address that join the set, for example kernels published beside the index."
    )
    exclude: tuple[str, ...] = Field((), description="Distributions left out although something asks for them.")
    indexes: tuple[Url, ...] = Field(
        (),
        description="Package indexes, asked in this order: a name that one has is not looked up in those after it. They and "
        "find_links decide alone. When empty, the builder's pip configuration: its extra indexes first, then its index.",
    )
    find_links: tuple[Url, ...] = Field(
        (),
        description="Directories or pages with wheels; the builder's pip configuration when this and indexes are empty.",
    )
    runtime: Literal["", "debs", "node"] = Field(
        "",
        description="Also build the set as one squashfs image that nodes mount instead of installing wheels: with the "
        "interpreter from this definition's packages (debs), or run by the node's own (node).",
    )
    compiler: bool = Field(
        False,
        description="Also put the C and C++ compiler and the headers of this definition's packages into the image, for what vLLM, torch "
        "and Triton compile when a model starts. Goes with runtime: debs.",
    )
    waivers: tuple[WheelWaiver, ...] = Field((), description="Files that wheels may overwrite of each other.")
    profiles: Profiles

    @model_validator(mode="after")
    def _has_a_place_for_the_compiler(self) -> Self:
        if self.compiler and self.runtime != "debs":
            raise ValueError("compiler: true goes with runtime: debs, for the compiler is part of the image")
        return self


class AptSource(_Strict):
    """One apt source, as in a deb822 file: by address, or the builder's own mirror turned to other suites."""

    uri: Annotated[Url, Field(pattern=r"^(https?|file):", description="Address; file: may be relative.")] = ""
    builders: bool = Field(
        False,
        description="Instead of uri: the mirror that this builder's apt has for the target's family, with the suites and "
        "components given here, so that a definition needs no host name.",
    )
    suites: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Code names such as trixie and trixie-security, or ./ for a directory."),
    ]
    components: tuple[str, ...] = Field(("main",), description="Such as main, contrib, non-free, non-free-firmware.")
    signed_by: str = Field(
        "",
        description="Keyring on the builder that signs the source; with builders the one its own source names when empty.",
    )

    fingerprints: tuple[Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")], ...] = Field(
        (),
        description="Primary keys that the keyring may hold, 40 hexadecimal digits each; a keyring with another one is refused. For a key "
        "that is fetched from where the packages are.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.builders == bool(self.uri):
            raise ValueError("give either uri or builders: true")
        if self.uri and not self.signed_by:
            raise ValueError("a source with uri needs signed_by, the keyring that signs it")
        return self


class DebGroup(_Strict):
    """Debian packages; their whole dependency closure comes along."""

    packages: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+(=\S+)?$")], ...],
        Field(min_length=1, description="Names of packages, NAME or NAME=VERSION."),
    ]
    profiles: Profiles


class Debs(_Strict):
    """Operating-system packages for the target release."""

    sources: tuple[AptSource, ...] = Field((), description="apt sources; the builder's own when empty.")
    groups: Annotated[
        tuple[DebGroup, ...], Field(min_length=1, description="Packages by the kinds of node that get them.")
    ]


class Image(_Strict):
    """A container image, pinned to a digest when it is locked."""

    name: Name = Field(description="Name of the image; containers of a site name it.")
    source: Annotated[
        Open, Field(pattern=r"^(docker://|oci:|oci-archive:|docker-archive:)\S+$", description="As skopeo names it.")
    ]
    tls_verify: bool = Field(True, description="False only for a registry on loopback.")
    platforms: Literal["target", "all"] = Field(
        "target", description="The target's platform alone, or all that the registry's list names."
    )
    licence: Licence = Field("", description="SPDX expression of what the image holds.")
    profiles: Profiles


class Waiver(_Strict):
    """A rule of the model intake that this model may break, and why."""

    rule: Literal["pickle", "python", "auto-map", "licence"] = Field(
        description="The rule that is waived (docs/models.md)."
    )
    reason: Annotated[str, Field(min_length=10, description="Recorded in the bundle's manifest.")]


class S3(_Strict):
    """A folder in an S3-compatible store. Credentials come from the environment or the builder's profile files only."""

    endpoint: Annotated[
        Url,
        Field(
            pattern=r"^https?://[\w.:\[\]-]+/?$", description="Address of the store, without path, user or password."
        ),
    ]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Name of the bucket.")]
    prefix: Annotated[
        str, Field(pattern=r"^([^/\s][^\s]*)?$", description="Folder in the bucket; all of it when empty.")
    ] = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$", description="Region that requests are signed for.")] = (
        "us-east-1"
    )


class Acceptance(_Strict):
    """Who accepted the terms of a gated model; goes into lock and manifest."""

    by: Annotated[str, Field(min_length=3, max_length=200, description="Person or role.")]
    on: datetime.date = Field(description="Day of the acceptance.")
    terms: Annotated[str, Field(min_length=3, max_length=400, description="Which terms: name, version or address.")]


class Signature(_Strict):
    """An OpenSSF model signature (model-signing) over the whole folder; required once it is named."""

    file: Annotated[str, Field(pattern=r"^[\w.-]+$", description="Signature file at the top of the model.")] = (
        "model.sig"
    )
    public_key: str | None = Field(None, description="PEM file of the signer's key, relative to the definition.")
    certificates: tuple[str, ...] = Field(
        (), description="PEM files that the signing certificate must chain to, relative to the definition."
    )

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        if (self.public_key is None) == (not self.certificates):
            raise ValueError("give either public_key or certificates")
        return self


class Model(_Strict):
    """A model folder, from a directory, from a hub at a pinned commit, or from an S3-compatible store."""

    name: Name = Field(description="Name of the model; services of a site name it.")
    path: str | None = Field(None, description="Directory, relative to the definition.")
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None, description="Repository on the hub, OWNER/NAME."
    )
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(
        None, description="Commit of the repository, 40 hexadecimal digits."
    )
    s3: S3 | None = Field(None, description="Folder in an S3-compatible store.")
    accepted: Acceptance | None = Field(None, description="Needed for a gated repository of the hub.")
    signature: Signature | None = Field(
        None, description="Signature of the model's maker, which must hold once it is named."
    )
    include: tuple[str, ...] = Field(
        (), description="Patterns of files to take; everything the intake allows when empty."
    )
    licence: Licence = Field("", description="SPDX expression; overrides what the model card says.")
    waivers: tuple[Waiver, ...] = Field((), description="Rules of the intake that this model may break.")
    profiles: Profiles

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.path, self.hub, self.s3].count(None) != 2:
            raise ValueError("give either path or hub or s3, one of them")
        if self.hub and not self.revision:
            raise ValueError("a hub repository needs revision, the 40-digit commit to pin")
        return self


class File(_Strict):
    """Any other file, by address and hash."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$", description="Name of the file in the bundle.")
    ]
    url: Annotated[
        Url, Field(pattern=r"^(https?|file):", description="Where it is; file: may be relative to the definition.")
    ]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file; any other is refused.")]
    licence: Licence = Field("", description="SPDX expression.")
    profiles: Profiles


class Definition(_Strict):
    """What a bundle should hold."""

    schema_version: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name = Field(description="Name of the bundle. The same name with another version is another release of it.")
    version: Version = Field(description="Version of the bundle: numbers with dots, for example 1.4.0 or 1.4.0-rc1.")
    description: str = Field("", description="What the bundle is for, in a sentence.")
    target: Target = Field(description="The machine the content is for; it need not be like the builder.")
    wheels: tuple[WheelSet, ...] = Field((), description="Python environments, each with its own requirements.")
    debs: Debs | None = Field(None, description="Operating-system packages for the target.")
    images: tuple[Image, ...] = Field((), description="Container images.")
    models: tuple[Model, ...] = Field((), description="Model folders.")
    files: tuple[File, ...] = Field((), description="Other files, by address and hash.")
    gateway: bool = Field(
        False, description="Bring the gateway's environment for gateway hosts; sites with gateway.tenants need it."
    )

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        for kind in ("wheels", "images", "models", "files"):
            twice = sorted(n for n, times in Counter(item.name for item in getattr(self, kind)).items() if times > 1)
            if twice:
                raise ValueError(f"{kind}: duplicate name {twice[0]!r}")
        shared = [
            f for f, times in Counter(os.path.normpath(w.pins) for w in self.wheels if w.pins).items() if times > 1
        ]
        if shared:
            raise ValueError(f"wheels: two sets name the pins {shared[0]!r}; each set needs a file of its own")
        return self

    @property
    def release(self) -> str:
        """NAME-VERSION, which is also the bundle's directory name."""
        return f"{self.name}-{self.version}"


def load(path: Path) -> Definition:
    """Read and check a definition.

    Raises:
        InputError: names file, line and key of every fault.
    """
    return yamlfile.parse(yamlfile.load(path), Definition, schema="definition")
