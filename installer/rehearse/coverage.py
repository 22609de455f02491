"""What a rehearsal ran and what it only carried: the words must not claim more than was done."""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import ApplianceError
from engine.process import run as run_process
from installer.definition import Definition
from installer.lab.lab import Lab
from installer.lockfile import Lock
from installer.rehearse.shape import Shape
from installer.site.install import Outcome


def run(
    outcome: Outcome, shape: Shape, definition: Definition, lock: Lock, unresolved: dict[str, str]
) -> tuple[str, ...]:
    """What was done and succeeded; empty on the first failure of a node, whose task says how far it came."""
    if outcome.failures:
        return ()
    groups = {g for h in shape.hosts for g in h.groups}
    here = [a for a in lock.artifacts if groups & set(a.profiles)]
    nodes = f"{len(shape.hosts)} node{'s' if len(shape.hosts) > 1 else ''}"
    done = [f"fetched and verified on {nodes}: {len(here)} artifacts of the profiles {', '.join(sorted(groups))}"]
    if definition.debs and not unresolved:
        done.append("packages: what the roles install was installed; every other one resolves from the bundle alone")
    if "gpu" in groups and any(w.name == shape.site.runtime for w in definition.wheels):
        done.append(f"wheels {shape.site.runtime}: installed from the bundle alone")
    done += [
        f"service {p.service}: answered a {'completion (' + p.remark + ')' if p.remark else 'chat'} at {p.gateway} through mutual TLS, refused without a certificate"
        for p in outcome.proof
        if p.good
    ]
    return tuple(done)


def carried_only(definition: Definition, shape: Shape) -> Iterator[str]:
    """Content that nodes fetch and verify and that no role uses."""
    groups = {g for h in shape.hosts for g in h.groups}
    served = {s.model for s in shape.site.services}
    for wheels in definition.wheels:
        if wheels.name != shape.site.runtime:
            yield f"wheels {wheels.name}: carried, and nothing installs them"
    for image in definition.images:
        yield f"image {image.name}: carried, not started"
    for model in definition.models:
        told = any(gap.startswith("serving") and model.name in gap for gap in shape.gaps)
        if model.name not in served and not told:
            yield f"model {model.name}: carried, not served"
    for file in definition.files:
        yield f"file {file.name}: carried, and nothing uses it"
    needed = {
        p
        for kind in (definition.wheels, definition.models, definition.images, definition.files)
        for c in kind
        for p in c.profiles
    }
    needed |= {p for g in (definition.debs.groups if definition.debs else ()) for p in g.profiles}
    for profile in sorted(needed - groups - {"control"}):
        yield f"profile {profile}: no node of the rehearsal is of it"


def unresolved(lab: Lab, shape: Shape, definition: Definition) -> dict[str, str]:
    """By node, why apt could not install all packages that the definition has for it, from the bundle and what the node has."""
    found = {}
    addresses = {n.name: n.address for n in lab.nodes}
    for host in shape.hosts:
        groups = definition.debs.groups if definition.debs else ()
        packages = sorted({p for g in groups if set(g.profiles) & set(host.groups) for p in g.packages})
        if packages:
            simulate = f"APT_CONFIG=/etc/appliance/apt.conf apt-get --quiet --simulate install {' '.join(packages)}"
            try:
                run_process([*lab.ssh(addresses[host.name]), simulate], timeout_s=120)
            except ApplianceError as error:
                found[host.name] = str(error)
    return found
