"""This product itself: its wheels, roles and everything they need, so that inside is what outside was tested.

Two sets: ``control`` for the control host (installer, Ansible and all), ``node`` for every node (engine and uv).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.blobs import hash_file
from engine.errors import TrustError
from engine.process import run
from installer import product
from installer.definition import WheelSet
from installer.kinds import Work, items, pins, uvresolve, wheels
from installer.kinds.pins import Pins
from installer.lockfile import Artifact

BUILT = "build:"  # scheme of wheels that are made from this source tree
SETS = {"control": ("control.txt", ("appliance", "appliance-engine")), "node": ("node.txt", ("appliance-engine",))}


def resolve(work: Work) -> list[Artifact]:
    """The pinned requirements of both sets for the target's Python, plus the product's own wheels.

    Raises:
        UpstreamError: a source serves other wheels than requirements/*.txt of this source tree pins.
    """
    tree, config, work = product.source_tree(), work.network.pip, replace(work, pinning="obey")
    own = _build(work)
    artifacts = []
    for name, (file, mine) in SETS.items():
        locked = pins.load(tree / "requirements" / file)
        if name == "node":  # nodes install with uv, which they get as a wheel like everything else
            uv = pins.load(tree / "requirements" / "control.txt").by_name["uv"]
            locked = Pins(locked.path, {**locked.by_name, "uv": uv})
        wheel_set = WheelSet(name=name, requirements=locked.constraints, profiles=("control",))
        artifacts += wheels.resolve_set(work, wheel_set, config, locked, kind="installer", below="installer")
        artifacts += [
            own[m].model_copy(update={"path": f"installer/{name}/{own[m].path.rpartition('/')[2]}", "group": name})
            for m in mine
        ]
    return artifacts


def _build(work: Work) -> dict[str, Artifact]:
    """Build both wheels from the source tree into the cache. Hatchling gives the same bytes for the same tree."""
    tree, made = product.source_tree(), {}
    with tempfile.TemporaryDirectory(prefix="appliance-own-") as scratch:
        for name, source in (("appliance", tree), ("appliance-engine", tree / "engine")):
            out = Path(scratch) / name
            run(
                [
                    uvresolve.uv_binary(),
                    "build",
                    "--wheel",
                    "--quiet",
                    "--no-build-isolation",
                    "--python",
                    sys.executable,
                    "--offline",
                    "--no-config",
                    "--out-dir",
                    out,
                    source,
                ],
                env={"SOURCE_DATE_EPOCH": str(work.epoch or 315532800)},  # zip files begin in 1980
                inherit=False,
            )
            wheel = next(out.glob("*.whl"))
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


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Download what is locked and build our own again; the source tree must still be the one that was locked."""
    ours = [a for a in artifacts if a.source.startswith(BUILT)]
    work.downloader().fetch_all(items([a for a in artifacts if a not in ours]), task="installer")
    if all(work.cache.has(a.sha256, a.size) for a in ours):
        return
    built = _build(work)
    for artifact in ours:
        if built[artifact.name].sha256 != artifact.sha256:
            raise TrustError(
                f"{artifact.name} built from this source tree differs from the locked one",
                where=artifact.path,
                remedy="The tree changed since `appliance lock`; lock again.",
            )


check = wheels.check
lay_out = wheels.lay_out
