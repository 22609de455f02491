"""The written placement of a node: what every replica of its services has. Standard library alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import strictjson
from engine.errors import InputError
from engine.placement.model import Ask, Held, Place

FILE = Path("/etc/appliance/vllm/placement.json")
SCHEMA = 1
MAX_BYTES = 1 << 20  # 64 replicas are some 20 kB
MAX_ASKS = 1024


def document(places: Sequence[Place]) -> dict[str, Any]:
    """The record as JSON has it."""
    return {
        "schema": SCHEMA,
        "places": [
            {
                "name": p.name,
                "service": p.service,
                "gpus": [{"uuid": g.uuid, "index": g.index, "minor": g.minor} for g in p.gpus],
                "cpus": list(p.cpus),
                "numa": p.numa,
            }
            for p in places
        ],
    }


def read(path: Path = FILE) -> list[dict[str, Any]]:
    """The places of a record; empty where there is none.

    Raises:
        InputError: it is damaged, or of another version.
    """
    try:
        with path.open("rb") as file:
            return places(file.read(MAX_BYTES + 1), str(path))
    except FileNotFoundError:
        return []


def places(raw: bytes, where: str) -> list[dict[str, Any]]:
    """The same of a text. Pure.

    Raises:
        InputError: it is not a record of this version.
    """
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES} bytes")
        told = strictjson.loads(raw)
        if told["schema"] != SCHEMA:
            raise ValueError(f"its schema is {told['schema']!r}, not {SCHEMA}")
        return [
            {
                "name": str(p["name"]), "service": str(p["service"]), "numa": int(p["numa"]), "cpus": [int(c) for c in p["cpus"]],
                "gpus": [{"uuid": str(g["uuid"]), "index": int(g["index"]), "minor": int(g["minor"])} for g in p["gpus"]],
            }
            for p in told["places"]
        ]  # fmt: skip
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"the placement of services cannot be read: {error}",
            where=where,
            remedy="Remove the file and install again; services may then move to other GPUs.",
        ) from error


def held(path: Path = FILE) -> Mapping[str, Held]:
    """What every replica has now, by name.

    Raises:
        InputError: the record is damaged.
    """
    return {p["name"]: Held(tuple(g["uuid"] for g in p["gpus"]), tuple(p["cpus"])) for p in read(path)}


def asks(raw: bytes) -> list[Ask]:
    """What replicas ask for: a JSON list of ``name``, ``service``, ``gpus`` (a number or a list of indexes) and ``cpus``. Pure.

    Raises:
        InputError: it is not such a list.
    """
    try:
        told = strictjson.loads(raw, max_parts=MAX_ASKS * 64)
        return [_ask(one) for one in told]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"what services ask for cannot be read: {error}", where="standard input", remedy="Give a JSON list."
        ) from error


def _ask(one: Mapping[str, Any]) -> Ask:
    wanted = one.get("gpus") or 0
    indexes = tuple(int(i) for i in wanted) if isinstance(wanted, list) else ()
    return Ask(str(one["name"]), str(one["service"]), 0 if indexes else int(wanted), indexes, int(one.get("cpus") or 0))
