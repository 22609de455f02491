"""This product itself: its wheels, roles and everything they need, so that inside is what outside was tested.

Two sets: ``control`` for the control host (installer, Ansible and all), ``node`` for every node (engine and uv). Its own wheels are made
from what git tracks in the checkout (:mod:`installer.kinds.ownfiles`), or from the files that an installed copy lists
(:mod:`installer.kinds.ownwheel`); whatever else lies beside them stays here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.blobs import hash_file
from engine.bounds import Bounds
from engine.errors import TrustError
from engine.process import run
from installer import product
from installer.definition import Profile, WheelSet
from installer.kinds import Work, items, ownfiles, ownwheel, pins, uvresolve, wheels
from installer.kinds.pins import Pins
from installer.lockfile import Artifact, Product

BUILT = "build:"  # scheme of wheels that are made from this product's own files
WHEELS = {
    "appliance": ("", "installer"),
    "appliance-engine": ("engine", "engine"),
}  # directory below the tree, and package
SETS = {"control": ("control.txt", ("appliance", "appliance-engine")), "node": ("node.txt", ("appliance-engine",))}
GATEWAY = {"gateway": ("gateway.txt", ("appliance-engine",))}
PROFILES: dict[str, tuple[Profile, ...]] = {
    "gateway": ("gateway",)
}  # the others are pushed, or installed on the control host


def resolve(work: Work) -> list[Artifact]:
    """The pinned requirements of both sets for the target's Python, plus the product's own wheels.

    Raises:
        UpstreamError: a source serves other wheels than the product's requirements/*.txt pin.
    """
    config, work = work.network.pip, replace(work, pinning="obey")
    own = _build(work)
    artifacts = []
    sets = SETS | (GATEWAY if work.definition.gateway else {})
    for name, (file, mine) in sets.items():
        profiles = PROFILES.get(name, ("control",))
        locked = pins.load(product.data("requirements") / file)
        if name == "node":  # nodes install with uv, which they get as a wheel like everything else
            uv = pins.load(product.data("requirements") / "control.txt").by_name["uv"]
            locked = Pins(locked.path, {**locked.by_name, "uv": uv})
        wheel_set = WheelSet(name=name, requirements=locked.constraints, profiles=profiles)
        artifacts += wheels.resolve_set(work, wheel_set, config, locked, kind="installer", below="installer")
        artifacts += [
            own[m].model_copy(
                update={
                    "path": f"installer/{name}/{own[m].path.rpartition('/')[2]}",
                    "group": name,
                    "profiles": profiles,
                }
            )
            for m in mine
        ]
    return artifacts


def origin() -> Product:
    """Where the product's own wheels come from now.

    Raises:
        ResourceError: nobody can say which files of this tree belong to the product.
    """
    checkout = product.checkout()
    return ownfiles.read(checkout).product if checkout else Product(origin="installed copy")


def _build(work: Work) -> dict[str, Artifact]:
    """Both wheels into the cache. The same files give the same bytes."""
    made = {}
    with tempfile.TemporaryDirectory(prefix="appliance-own-") as scratch:
        for name, wheel in _wheels(work, Path(scratch)).items():
            sha256, size = hash_file(wheel)
            with work.cache.incoming(sha256, size) as incoming:
                if not incoming.complete:
                    incoming.restart()
                    incoming.write(wheel.read_bytes())
            made[name] = Artifact(
                path=f"installer/{wheel.name}", kind="installer", name=name, version=wheel.name.split("-")[1], size=size, sha256=sha256,
                source=f"{BUILT}{name}", licence="Apache-2.0", profiles=("control",),
            )  # fmt: skip
    return made


def _wheels(work: Work, scratch: Path) -> dict[str, Path]:
    """Both wheels below ``scratch``, by name."""
    epoch, checkout = work.epoch or ownwheel.ZIP_BEGINS, product.checkout()
    if checkout is None:
        package = {n: product.PACKAGE.parent / p / "__init__.py" for n, (_, p) in WHEELS.items()}
        return {name: ownwheel.make(name, package[name], scratch / name, epoch) for name in WHEELS}
    sources = ownfiles.read(checkout)
    ownfiles.say(sources, work.report)
    # Never built where it lies: what git does not track is not in the copy.
    ownfiles.copy(sources, scratch / "tree")
    for name, (below, _) in WHEELS.items():
        command = [uvresolve.uv_binary(), "build", "--wheel", "--quiet", "--no-build-isolation", "--python", sys.executable, "--offline", "--no-config"]  # fmt: skip
        run(
            [*command, "--out-dir", scratch / name, scratch / "tree" / below],
            env={"SOURCE_DATE_EPOCH": str(epoch), "UV_CACHE_DIR": str(scratch / "cache")},
            inherit=False,
            bounds=Bounds(memory=4 << 30, directory=scratch, disk=4 << 30, time_s=900.0),
        )
    return {name: next((scratch / name).glob("*.whl")) for name in WHEELS}


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Download what is locked and make the own wheels again; their files must still be those that were locked."""
    ours = [a for a in artifacts if a.source.startswith(BUILT)]
    work.downloader().fetch_all(items([a for a in artifacts if a not in ours]), task="installer")
    if all(work.cache.has(a.sha256, a.size) for a in ours):
        return
    built = _build(work)
    for artifact in ours:
        if built[artifact.name].sha256 != artifact.sha256:
            raise TrustError(
                f"{artifact.name} made from this product's own files differs from the locked one",
                where=artifact.path,
                remedy="They changed since `appliance lock`, or an installed copy and a checkout were mixed; lock again.",
            )


check = wheels.check
lay_out = wheels.lay_out
