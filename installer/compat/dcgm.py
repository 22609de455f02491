"""DCGM and its exporter, as the role dcgm_exporter demands them of the bundle."""

from __future__ import annotations

import re
from collections.abc import Iterator

from installer.compat.facts import Facts, Finding
from installer.compat.tables import DCGM_PAIRS

EXPORTER = "datacenter-gpu-manager-exporter"
DCGM = re.compile(r"^datacenter-gpu-manager-4-(core|proprietary|cuda1[23])$")
OWN = re.compile(r"^(?:\d+:)?([0-9.]+)")  # DCGM's or the exporter's version without epoch and revision


def pair(facts: Facts) -> Iterator[Finding]:
    """With the exporter come the parts of DCGM, of one version, and of the one that the exporter was built against."""
    exporters = {m[1] for d in facts.debs if d.name == EXPORTER and (m := OWN.match(d.version))}
    if not exporters:
        return
    parts = {m[1]: own[1] for d in facts.debs if (m := DCGM.match(d.name)) and (own := OWN.match(d.version))}
    missing = [f"datacenter-gpu-manager-4-{p}" for p in ("core", "proprietary") if p not in parts]
    missing += [] if parts.keys() & {"cuda12", "cuda13"} else ["datacenter-gpu-manager-4-cuda13 (or -cuda12)"]
    if missing:
        yield Finding(
            "dcgm", "failure", f"the exporter of GPU metrics is locked without {', '.join(missing)}; the role dcgm_exporter refuses every node",
            "Add them under debs with the profile gpu, -cuda13 for drivers from branch 580 on.",
        )  # fmt: skip
        return
    versions = sorted(set(parts.values()))
    if len(versions) > 1 or len(exporters) > 1 or DCGM_PAIRS.get(versions[0]) not in exporters:
        yield Finding(
            "dcgm", "failure", f"DCGM {' and '.join(versions)} and exporter {' and '.join(sorted(exporters))} are not a known pair; the role dcgm_exporter refuses them",
            f"Pin one in the definition with =VERSION: {', '.join(f'DCGM {d} with exporter {e}' for d, e in DCGM_PAIRS.items())}.",
        )  # fmt: skip
