"""`appliance-engine placement`: decide which GPUs and CPUs of this node each replica gets, or show what was decided."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import InputError, ResourceError
from engine.placement import record, topology
from engine.placement.choose import place
from engine.placement.model import UNKNOWN, Ask, Node, Placement
from engine.preflight import probe_gpu


def main(argv: Sequence[str]) -> int:
    """`appliance-engine placement decide|show`: prints the placement as one JSON document."""
    parser = argparse.ArgumentParser(prog="appliance-engine placement", description=__doc__)
    parser.add_argument("verb", choices=("decide", "show"))
    parser.add_argument("--file", type=Path, default=record.FILE, help="the record of what was decided")
    asked = parser.parse_args(argv)
    if asked.verb == "show":
        told = {"schema": record.SCHEMA, "places": record.read(asked.file)}
    else:
        wanted = record.asks(sys.stdin.buffer.read(record.MAX_BYTES))
        told = record.document(demand(place(wanted, here(wanted), record.held(asked.file))).places)
    sys.stdout.write(json.dumps(told, sort_keys=True) + "\n")
    return 0


def here(wanted: Sequence[Ask]) -> Node:
    """This node. NVML is asked only where a replica wants a GPU.

    Raises:
        ResourceError: a GPU is wanted and the driver does not answer, or does not tell the number of a device file.
    """
    if not any(a.gpus or a.indexes for a in wanted):
        return Node((), topology.cpus())
    told = probe_gpu.read_nvml()
    if told.error:
        raise ResourceError(
            f"NVML says {told.error}",
            where="the NVIDIA driver",
            remedy="Load the driver (nvidia-smi must list the GPUs), and install again.",
        )
    node = topology.node(told)
    if nameless := [g.uuid for g in node.gpus if g.minor == UNKNOWN]:
        raise ResourceError(
            f"the driver does not tell the device file of {nameless[0]}",
            where="NVML",
            remedy="Look at the GPU with `nvidia-smi -q`; reset it or restart the node.",
        )
    return node


def demand(made: Placement) -> Placement:
    """Refuse a placement that leaves a replica out.

    Raises:
        InputError: names every replica, what it asks for and what there is.
    """
    if made.refused:
        raise InputError(
            "; ".join(f"the service {r.service} {r.what}" for r in made.refused),
            where=f"services, key {made.refused[0].key}",
            remedy=f"{made.refused[0].remedy[0].upper()}{made.refused[0].remedy[1:]}.",
        )
    return made
