"""The lock: every artifact with source, version, size, SHA-256 and licence. Machine-written, reviewed by people."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine import durable
from engine.addresses import public, secret_in
from engine.errors import InputError, TrustError
from engine.tree import check_path
from installer import yamlfile
from installer.definition import Definition, Profile

Kind = Literal["installer", "wheels", "debs", "images", "models", "files"]
KIND_ORDER: tuple[Kind, ...] = ("installer", "wheels", "debs", "images", "models", "files")
# How notes begin that put a fact on record; every other note asks for a person's judgement.
SIGNATURE, GATED, TERMS = "signature: ", "gated: ", "terms accepted by "
HEADER = "# Written by `appliance lock`. Review changes like those of any dependency lock; do not edit.\n"


class Artifact(BaseModel):
    """One file of the bundle as it was resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str = Field(description="Where it lies below content/.")
    kind: Kind
    group: str = Field("", description="Wheel set, model or image it belongs to.")
    name: str = Field(description="Distribution, package, image, model or file.")
    version: str = ""
    size: int = Field(ge=0, description="Bytes.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    source: str = Field(description="Address it is fetched from.")
    licence: str = ""
    notes: tuple[str, ...] = Field((), description="Waivers and other things a reviewer must see.")
    profiles: tuple[Profile, ...]

    @model_validator(mode="after")
    def _stays_in_its_place(self) -> Self:
        """A name that an index or a hub gave, or an edited lock, does not lead out of the content directory of its kind."""
        try:
            check_path(self.path)
            urlsplit(self.source).port  # noqa: B018  reading it checks it
            if not self.source.isprintable() or self.source != self.source.strip():
                raise ValueError("the address has characters that readers of addresses pass over")
            if found := secret_in(self.source):
                raise ValueError(f"the address holds {found}; lock again, a lock names no secrets")
        except (TrustError, ValueError) as error:
            where = public(self.source[:200]) if self.source.isprintable() else "an address"
            raise ValueError(f"{self.path[:200]!a} from {where!a} cannot be locked: {error}") from error
        if self.path.partition("/")[0] != self.kind:
            raise ValueError(f"{self.path[:200]!a} is not below {self.kind}/")
        return self


class Surroundings(BaseModel):
    """How the builder reached its sources when it locked: for a reviewer who asks where content came from. No logins."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    proxies: dict[str, str] = Field({}, description="Proxy by scheme, without login.")
    no_proxy: tuple[str, ...] = ()
    ca: str = Field("system", description="The system's store of CAs, or the SHA-256 of the file that was named.")
    index: str = Field("default", description="pip's index; 'default' is the tools' own, empty means none.")
    extra_indexes: tuple[str, ...] = Field((), description="pip's extra indexes, asked before its index.")
    find_links: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_no_secrets(self) -> Self:
        for address in (*self.proxies.values(), self.index, *self.extra_indexes, *self.find_links):
            if found := secret_in(address):
                raise ValueError(f"an address holds {found}; lock again, a lock names no secrets")
        return self


class Product(BaseModel):
    """What appliance's own wheels were built from, for a reviewer who asks which source a release carries."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    origin: Literal["checkout", "installed copy"] = Field(
        "checkout", description="A clone, or wheels that an installed copy made again from its own list of files."
    )
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})?$")] = Field(
        "", description="The clone's commit; empty before the first one, and for an installed copy."
    )
    changed: tuple[str, ...] = Field((), description="Tracked files that were not as in the commit.")


class Lock(BaseModel):
    """All artifacts of one bundle version."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    version: str
    definition_sha256: str = Field(description="Of the definition this lock was made from, in canonical form.")
    network: Surroundings | None = Field(
        None, description="Of the builder, when the artifacts last changed; nothing is fetched by it."
    )
    product: Product | None = Field(
        None, description="Source of appliance's own wheels, when the artifacts last changed."
    )
    artifacts: tuple[Artifact, ...]

    def of_kind(self, kind: Kind) -> tuple[Artifact, ...]:
        """The artifacts of one kind, in order of their paths."""
        return tuple(a for a in self.artifacts if a.kind == kind)

    @property
    def size(self) -> int:
        """Bytes of all artifacts."""
        return sum(a.size for a in self.artifacts)


def digest(definition: Definition) -> str:
    """SHA-256 of the definition's meaning; comments and layout do not count."""
    return hashlib.sha256(definition.model_dump_json(by_alias=True).encode()).hexdigest()


def path_of(definition: Path) -> Path:
    """`bundles/NAME.yml` is locked in `bundles/NAME.lock.yml`."""
    return definition.with_suffix(".lock.yml")


def make(
    definition: Definition,
    artifacts: list[Artifact],
    network: Surroundings | None = None,
    product: Product | None = None,
) -> Lock:
    """A lock with its artifacts in the order of their paths.

    Raises:
        InputError: two artifacts want the same path with different content.
    """
    by_path: dict[str, Artifact] = {}
    for artifact in artifacts:
        other = by_path.setdefault(artifact.path, artifact)
        if other.sha256 != artifact.sha256:
            raise InputError(
                f"{artifact.path} would have to be two different files",
                remedy="Rename one of the two in the definition.",
            )
        if other is not artifact:
            profiles = tuple(sorted({*other.profiles, *artifact.profiles}))
            by_path[artifact.path] = other.model_copy(update={"profiles": profiles})
    ordered = tuple(by_path[p] for p in sorted(by_path))
    return Lock(
        name=definition.name, version=definition.version, definition_sha256=digest(definition), network=network,
        product=product, artifacts=ordered,
    )  # fmt: skip


def kept(old: Lock | None, new: Lock) -> Lock:
    """``old`` where ``new`` has the same content, and only its builder reached that in another way or from another commit.

    A tree that was not as committed and now is, or the other way round, is a change that a reviewer wants to see.
    """
    if old is None or old.model_copy(update={"network": new.network, "product": new.product}) != new:
        return new
    return old if _uncommitted(old) == _uncommitted(new) else new


def _uncommitted(lock: Lock) -> tuple[str, ...]:
    return lock.product.changed if lock.product else ()


def dump(lock: Lock) -> str:
    """The lock as text: one artifact a block, fields in a fixed order, empty ones left out."""
    with yamlfile.without_collector():
        data = lock.model_dump(mode="json", by_alias=True)
        data["artifacts"] = [{k: v for k, v in a.items() if v not in ("", [])} for a in data["artifacts"]]
        for part in ("network", "product"):
            if data[part] is None:
                del data[part]
        return HEADER + yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, width=1000, allow_unicode=True)


def save(path: Path, lock: Lock) -> None:
    """Write the lock durably."""
    durable.write(path, dump(lock))


def load(path: Path, definition: Definition) -> Lock:
    """Read the lock that belongs to ``definition``.

    Raises:
        InputError: there is none, it is damaged, or the definition has changed since.
    """
    if not path.exists():
        raise InputError(
            "there is no lock", where=str(path), remedy="Run `appliance lock` on the definition and review the result."
        )
    lock = yamlfile.parse(yamlfile.load(path), Lock, schema="lock")
    if lock.definition_sha256 != digest(definition):
        raise InputError(
            "the definition has changed since it was locked",
            where=str(path),
            remedy="Run `appliance lock` again and review the difference.",
        )
    return lock


def load_any(path: Path) -> Lock | None:
    """The lock as it is, whatever definition it was made from; None when there is none or it cannot be read."""
    try:
        return yamlfile.parse(yamlfile.load(path), Lock, schema="lock")
    except InputError:
        return None
