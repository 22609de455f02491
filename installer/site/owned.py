"""What the roles leave on nodes, as each role declares it in meta/owns.yml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.errors import InputError
from installer import product, yamlfile

OWNS = Path("meta") / "owns.yml"
PLAYBOOKS = ("prepare.yml", "converge.yml")
_ROLE = re.compile(r"^\s+name: ([a-z][a-z0-9_]*)\n(\s+tasks_from:)?", re.MULTILINE)


def _path(value: str) -> str:
    parts = value.split("/")
    if not value.startswith("/") or len(parts) < 3 or {"", ".", ".."} & set(parts[1:]) or set("*?[") & set(value):
        raise ValueError(f"{value!r} is no plain absolute path below another directory")
    return value


def _unit(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:_.@\\*-]+\.(service|timer|socket|path|mount|target|service\.d)", value):
        raise ValueError(f"{value!r} is no name of a unit")
    if "appliance" not in value and "*" in value:
        raise ValueError(f"{value!r} could match units of others")
    return value


def _table(value: str) -> str:
    if not re.fullmatch(r"(inet|netdev|ip|ip6|arp|bridge) [a-z][a-z0-9_-]*", value):
        raise ValueError(f"{value!r} is no nft table, such as `inet appliance`")
    return value


Place = Annotated[str, AfterValidator(_path)]
Unit = Annotated[str, AfterValidator(_unit)]
Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]


class Mask(BaseModel):
    """A unit that the role masks where it brought the package."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    unit: Unit
    package: PackageName


class Owns(BaseModel):
    """One role's declaration; docs/day-two.md says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    units: tuple[Unit, ...] = Field((), description="Files in /etc/systemd/system; `*` for what differs by name.")
    instances: tuple[Unit, ...] = Field((), description="Units without a file of their own: of templates, transient.")
    masks: tuple[Mask, ...] = ()
    files: tuple[Place, ...] = Field((), description="Files and links.")
    directories: tuple[Place, ...] = Field((), description="Removed with all that is in them.")
    models: tuple[Place, ...] = Field((), description="Directories that --keep-models keeps.")
    parents: tuple[Place, ...] = Field((), description="Directories removed only when they are empty then.")
    users: tuple[Name, ...] = Field((), description="System users.")
    groups: tuple[Name, ...] = ()
    nft_tables: tuple[Annotated[str, AfterValidator(_table)], ...] = Field((), description="FAMILY NAME; removed last.")
    packages: tuple[PackageName, ...] = Field((), description="What the role asks apt for; apt's record decides.")
    keeps: tuple[Place, ...] = Field((), description="What stays on purpose; uninstall says so.")


def declarations(roles: Path | None = None, playbooks: Path | None = None) -> list[dict[str, Any]]:
    """Every role's declaration with its name under ``role``, in the order in which the playbooks import them.

    A role that no playbook names comes last, so that an uninstall starts with it.

    Raises:
        InputError: a role declares nothing, or what it declares cannot be owned.
    """
    base = roles or product.data("roles")
    found: dict[str, dict[str, Any]] = {}
    for role in sorted(p for p in base.iterdir() if (p / "tasks").is_dir()):
        if not (role / OWNS).is_file():
            raise InputError(
                f"the role {role.name} does not say what it leaves on a node",
                where=str(role / OWNS), remedy="Write it; docs/day-two.md explains the keys.",
            )  # fmt: skip
        own = yamlfile.parse(yamlfile.load(role / OWNS), Owns, schema="")
        found[role.name] = {"role": role.name, **own.model_dump(mode="json")}
    order_of = order(playbooks)
    return sorted(found.values(), key=lambda own: (order_of.get(own["role"], len(order_of)), own["role"]))


def order(playbooks: Path | None = None) -> Mapping[str, int]:
    """Number of every role, from 0, by where a whole role is imported; a part of one (`tasks_from`) says nothing of its place."""
    base = playbooks or product.data("playbooks")
    files = [base / name for name in PLAYBOOKS if (base / name).is_file()]
    names = dict.fromkeys(n for file in files for n, part in _ROLE.findall(file.read_text()) if not part)
    return {name: number for number, name in enumerate(names)}
