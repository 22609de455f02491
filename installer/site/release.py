"""Which release an install is of, and whether it may be an older one than the newest seen here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine import metadata, verify
from engine.copying import copy_target
from engine.errors import InputError, TrustError
from engine.memory import Demand
from engine.report import Report
from engine.trust import Trusted
from installer.carry import checking
from installer.depot import Depot
from installer.evidence import contents
from installer.site.unchanged import NodeNow

# What a release says of itself; the control host reads it, nodes fetch the rest.
ACCOUNT = (contents.MANIFEST, contents.LICENCES, contents.SBOM, contents.PROVENANCE)


@dataclass(frozen=True)
class Release:
    """A verified release. ``view`` is its directory, ``root`` the pinned root of trust; sizes in bytes, 0 where nothing was imported."""

    name: str
    view: Path
    root: Path
    imported_bytes: int = 0
    size: int = 0


@dataclass(frozen=True)
class Age:
    """What nodes are told: refuse metadata below ``minimum_version``, unless ``reason`` says why older metadata is meant."""

    minimum_version: int = 0
    reason: str = ""


def of_depot(depot: Depot, name: str, demand: Demand, *, check: bool) -> Release:
    """A release that was imported before: ``name``, or the only one.

    Raises:
        InputError: it is not there, or there are several.
    """
    name = name or _only(depot)
    view = depot.view(name)
    if demand.downgrade and not check:
        # Going back to what is here already is the same step as importing it: asked for, agreed to and on record once.
        with depot.exclusive():
            depot.open(view, None, demand)
    return Release(name, view, depot.pinned_root)


def of_bundle(depot: Depot, bundle: Path, root: Path | None, demand: Demand, report: Report) -> Release:
    """A bundle, imported now. One that the depot has already and that is not the newest is taken from the depot: whether the
    nodes may have it is for ``age`` to decide.

    Raises:
        TrustError: it was refused.
    """
    if not demand.downgrade and (known := _known(depot, bundle)) and _older(depot, known):
        return of_depot(depot, known, demand, check=False)
    done = depot.import_bundle(bundle, root_json=root, demand=demand, report=report)
    return Release(done.trusted.release, done.view, depot.pinned_root, done.copied, done.trusted.size)


@contextmanager
def to_look_at(depot: Depot, bundle: Path, root: Path | None, report: Report) -> Iterator[Release]:
    """A bundle where it lies, verified and not imported, while the block runs. A delta is shown together with what the depot has.

    Raises:
        InputError: there is no root of trust, or a delta holds patches, which only an import can apply.
        TrustError: it was refused.
    """
    pinned = depot.pin(root)
    file = depot.pinned_root if depot.pinned_root.is_file() else root
    assert file  # noqa: S101 - pinned
    checked = checking.checked(bundle, verify.verify(bundle, pinned, report=report), depot.blobs)
    if not checked.good:
        first = checked.findings[0]
        raise TrustError(
            f"{len(checked.findings)} files are not as signed, first {first.path} ({first.problem})",
            where=str(bundle),
            remedy=f"`appliance verify --depot {depot.root}` lists every such file.",
        )
    trusted = checked.trusted
    with _completed(depot, bundle.resolve(), trusted) as view:
        yield Release(trusted.release, view, file.resolve())


@contextmanager
def _completed(depot: Depot, bundle: Path, trusted: Trusted) -> Iterator[Path]:
    """A bundle or delta as a whole release: its metadata as it was verified, links to its files, and to the depot's for the rest."""
    scratch = Path(tempfile.mkdtemp(prefix=".look-", dir=depot.root if os.access(depot.root, os.W_OK) else None))
    try:
        scratch.chmod(0o755)  # the depot's web server reads it as another user
        view = scratch / trusted.release
        view.mkdir()
        metadata.write(view, {n: d for n, d in trusted.metadata.items() if n != metadata.PATCHES})
        for path, target in trusted.targets.items():
            source = bundle / path
            if not source.is_file():
                source = depot.blobs.path(target.sha256)
            if not source.is_file():
                raise InputError(
                    f"{path} is made by a patch, and a dry run makes nothing",
                    where=str(bundle),
                    remedy=f"Run `appliance import {bundle}` first, then the same command with --release {trusted.release} instead of the bundle.",
                )
            link = view / path
            link.parent.mkdir(parents=True, exist_ok=True)
            if path in ACCOUNT:  # read here without following links, so it is a file of its own
                copy_target(source.parent, replace(target, path=source.name), link)
            else:
                link.symlink_to(source)
        yield view
    finally:
        shutil.rmtree(scratch)


def age(
    depot: Depot,
    release: str,
    downgrade: str,
    ask: Callable[[], Iterable[NodeNow]],
    neighbours: Callable[[], Iterable[NodeNow]] = lambda: (),
) -> Age:
    """Whether nodes may have this release, and what they are told. Older than the newest seen is what an operator gave a reason for,
    and what every chosen node runs already: installing that again, after an upgrade that failed, leads nobody back. Nor does a new node
    that gets what other nodes of the site run.

    Args:
        downgrade: the operator's reason; empty without one.
        ask: what the chosen nodes say of themselves; called only where the release is older.
        neighbours: the same of all nodes of the site; called only where the chosen nodes are all new.

    Raises:
        TrustError: the release is older, and neither holds.
    """
    if not depot.pinned_root.is_file() or downgrade:
        return Age(reason=downgrade)
    name, version = depot.identity(release)
    newest = depot.memory().version(name) if name else 0
    if version >= newest:
        return Age(newest)
    chosen = list(ask())
    others = {n.node: n.release for n in chosen if n.release != release and not n.new}
    new = [n.node for n in chosen if n.new]
    runs = any(n.release == release for n in chosen)
    if new and not others and not (runs or any(n.release == release for n in neighbours())):
        others = dict.fromkeys(new, "")
    if others:
        raise TrustError(
            f"{release} (version {version}) is older than the newest {name} seen here (version {newest}), {_told(others)}",
            where=str(depot.root),
            remedy="Install the newest, take nodes back with `appliance rollback`, or give the reason for going back with --allow-downgrade.",
        )
    if new:
        return Age(version, f"{', '.join(new)} joins the nodes of the site that run {release}")
    return Age(version, f"{release} is installed again where it runs already")


def _told(others: Mapping[str, str]) -> str:
    """The first node that does not run the release."""
    node, runs = min(others.items())
    more = f", and {len(others) - 1} more nodes" if len(others) > 1 else ""
    return f"and {node} runs {runs or 'no release'}{more}"


def _known(depot: Depot, bundle: Path) -> str:
    """The imported release whose signed list is that of this directory, byte for byte; empty when there is none."""
    listed = metadata.load(bundle, "targets.json") if metadata.present(bundle) else None
    if listed is None:
        return ""
    # Only compared: the same bytes were verified when the depot took them in.
    return next((name for name in depot.releases() if metadata.load(depot.view(name), "targets.json") == listed), "")


def _older(depot: Depot, release: str) -> bool:
    name, version = depot.identity(release)
    return version < depot.memory().version(name)


def _only(depot: Depot) -> str:
    releases = depot.releases()
    if len(releases) != 1:
        raise InputError(
            f"the depot has {len(releases)} releases",
            where=str(depot.root),
            remedy="Give the bundle's directory, or --release NAME-VERSION.",
        )
    return releases[0]
