"""`appliance-gateway audit verify|report|export`: reads the files of the audit log, and changes nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from engine import outlet
from engine.errors import Exit, InputError
from engine.gateway import checking
from engine.gateway.audit import chain
from engine.gateway.audit.report import report
from engine.gateway.audit.verify import verify

MAX_CHECKPOINT = 1 << 16


def run(given: argparse.Namespace) -> int:
    """Do what the words say. Exits with 3 when a log is not sound.

    Raises:
        InputError: a file is missing or not what it should be.
    """
    if given.verb == "verify":
        return _verify(given)
    records = _between(_records(given.directory), given.since, given.until)
    if given.verb == "export":
        for record in records:
            outlet.result(chain.line_of(record).decode() + "\n")
        return Exit.OK
    outlet.result(json.dumps(report(records, checking.load(given.config)).dump(), indent=2) + "\n")
    return Exit.OK


def _verify(given: argparse.Namespace) -> int:
    exported = _checkpoint(given.checkpoint) if given.checkpoint else None
    found = verify(((path.name, _lines(path)) for path in _segments(given.directory)), public_key(given.key), exported)
    told = {
        "sound": not found.faults, "chain": found.chain, "first": found.first, "last": found.last, "signed_through": found.signed_through,
        "faults": [fault.__dict__ for fault in found.faults], "notes": found.notes,
    }  # fmt: skip
    outlet.result(json.dumps(told, indent=2) + "\n")
    return Exit.UNTRUSTED if found.faults else Exit.OK


def public_key(path: Path) -> Ed25519PublicKey:
    """The key that checkpoints are checked with.

    Raises:
        InputError: the file is not an Ed25519 public key in PEM.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "not a public key in PEM"
        raise InputError(
            f"cannot read the key: {what}", where=str(path), remedy="Give the public part of checkpoint_key."
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError("not an Ed25519 key", where=str(path), remedy="Give the public part of checkpoint_key.")
    return key


def _checkpoint(path: Path) -> chain.Checkpoint:
    try:
        with path.open("rb") as file:
            return chain.checkpoint_of(orjson.loads(file.read(MAX_CHECKPOINT)))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "not a checkpoint"
        raise InputError(
            f"cannot read the checkpoint: {what}", where=str(path), remedy="Give a checkpoint-*.json that was exported."
        ) from None


def _segments(directory: Path) -> list[Path]:
    found = sorted(directory.glob("audit-*.jsonl"))
    if not found:
        raise InputError("there is no audit log", where=str(directory), remedy="Give the directory with audit-*.jsonl.")
    return found


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(chain.MAX_LINE + 2):
            yield line.rstrip(b"\n")


def _records(directory: Path) -> Iterator[chain.Record]:
    for path in _segments(directory):
        for number, line in enumerate(_lines(path), 1):
            try:
                yield chain.parse(line)
            except ValueError as error:
                raise InputError(
                    f"not a record: {error}", where=f"{path}:{number}", remedy="Run `appliance-gateway audit verify`."
                ) from None


def _between(records: Iterator[chain.Record], since: str, until: str) -> Iterator[chain.Record]:
    for record in records:
        time = record.get("time", "")
        if time >= since and (not until or time < until):
            yield record
