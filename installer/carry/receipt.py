"""The receipt: a site's signed list of what it holds. The builder makes an exact delta from it.

Signed with the site's own key (installer.trust.envelope). The builder pins its public half once, like a site pins the
builder's root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import InputError, TrustError
from installer.depot import Depot
from installer.patch import zstd
from installer.trust import envelope

TYPE = "application/vnd.appliance.receipt+json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Held(_Frozen):
    """A release in the depot."""

    release: str
    name: str
    version: int


class Content(_Frozen):
    """One content in the depot; ``size`` in bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class Receipt(_Frozen):
    """What a site held at one time. ``last_install`` is the newest run's outcome, without its details; ``libzstd`` the
    version on the control host, which must be the builder's for blocks of images to be made again from a patch.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    made: datetime
    root_version: int
    releases: tuple[Held, ...]
    contents: tuple[Content, ...]
    last_install: dict[str, Any] | None = None
    libzstd: Annotated[str, Field(max_length=64)] = ""


@dataclass(frozen=True)
class Written:
    """A receipt file and the key id that signed it."""

    path: Path
    keyid: str
    contents: int
    public: Path


def gather(depot: Depot, runs: Path | None, now: datetime) -> Receipt:
    """Look at the depot; contents are what its releases list, each still there with its size."""
    held, contents = [], {}
    for release in depot.releases():
        name, version = depot.identity(release)
        held.append(Held(release=release, name=name, version=version))
        for target in depot.targets(release):
            if depot.blobs.has(target.sha256, target.size):
                contents[target.sha256] = Content(sha256=target.sha256, size=target.size)
    return Receipt(
        schema=1, made=now.astimezone(UTC).replace(microsecond=0), root_version=max(depot.memory().roots()),
        releases=tuple(held), contents=tuple(contents[k] for k in sorted(contents)), last_install=_last(runs),
        libzstd=zstd.version(),
    )  # fmt: skip


def _last(runs: Path | None) -> dict[str, Any] | None:
    """Release, time and outcome of every node in the newest finished run."""
    reports = sorted(runs.glob("*/report.json")) if runs and runs.is_dir() else []
    if not reports:
        return None
    try:
        data = json.loads(reports[-1].read_bytes())
        failed = {f["node"] for f in data.get("failures", [])}
        nodes = {node: "failed" if node in failed else "installed" for node in data.get("nodes", {})}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            "this is not the report of an install",
            where=str(reports[-1]),
            remedy="Move the directory of that run away, or restore it from a backup.",
        ) from error
    return {"release": data.get("release"), "started": data.get("started"), "good": data.get("good"), "nodes": nodes}


def write(receipt: Receipt, out: Path, keys: Path, passphrase: str) -> Written:
    """Sign the receipt with the site's key, which is made when there is none, and write it to ``out``."""
    key = envelope.site_key(keys, passphrase)
    envelope.seal(receipt.model_dump_json(by_alias=True), TYPE, out, key, passphrase)
    return Written(out, key.public.keyid, len(receipt.contents), key.path)


def read(path: Path, site: Path) -> Receipt:
    """A receipt that is signed by the site's key.

    Args:
        site: the site's ``site.pub.json``, which came once and was compared.

    Raises:
        InputError: it cannot be read.
        TrustError: it is not signed by that key, or is no receipt.
    """
    try:
        return Receipt.model_validate_json(envelope.unseal(path, TYPE, site))
    except ValidationError as error:
        raise TrustError(
            f"not a receipt: {error.error_count()} mistakes", where=str(path), remedy="Ask the site for it again."
        ) from error
