"""`appliance-engine egress prove|verify|export|key`: the continuous proof and its evidence; JSON on standard output."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine import durable, egress_chain
from engine.egress_log import STATE, Bounds, EvidenceLog
from engine.egress_proof import CONFIG, Settings, metrics, prove, settings
from engine.egress_raw import Helper
from engine.errors import ApplianceError, Exit
from engine.firewall import Firewall

LATE = 3  # proofs that may be missing before the newest counts as old


def main(argv: list[str]) -> int:
    """Run one verb and return its exit code."""
    asked = _parser().parse_args(argv)
    os.umask(0o077)
    try:
        wanted = settings(asked.config)
        log = EvidenceLog(
            asked.state, Bounds(wanted.segment_bytes, wanted.segments, wanted.seal_every), node=wanted.node
        )
        match asked.verb:
            case "prove":
                return _prove(wanted, log)
            case "verify":
                return _verify(wanted, log)
            case "export":
                return _export(wanted, log, asked.after)
        return _key(log, dry=asked.dry_run)
    except ApplianceError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)


def _prove(wanted: Settings, log: EvidenceLog) -> int:
    log.ensure_key()
    raw = Helper(Path(wanted.raw_socket)) if wanted.raw_socket else None
    allowed = [re.compile(pattern) for pattern in wanted.unguarded]
    found = prove(
        Firewall(), wanted, raw=raw, guarded=lambda name: not any(pattern.fullmatch(name) for pattern in allowed)
    )
    problem: ApplianceError | None = None
    try:
        log.append("proof", found.body(), seal=not found.good)
    except ApplianceError as error:
        problem = error
    head = log.head()
    if wanted.metrics:
        # Also after a failure, and first of all then: it is what raises the alarm.
        text = metrics(found, records=head.n if head else 0, written=problem is None, now=time.time())
        durable.write(Path(wanted.metrics), text, mode=0o644)
    _say({**found.body(), "record": head.n if head else 0})
    for fault in found.faults:
        sys.stderr.write(f"<3>egress is not proved: {fault}\n")
    if problem:
        raise problem
    # In the journal, too, which travels on other ways than the evidence.
    sys.stderr.write(f"<6>egress evidence: record {head.n if head else 0} is {head.hash if head else ''}\n")
    return int(Exit.OK if found.good else Exit.FAILED)


def _verify(wanted: Settings, log: EvidenceLog) -> int:
    verdict = egress_chain.verify(
        log.lines(),
        log.public(),
        log.head(),
        now=datetime.now(UTC),
        late_after=timedelta(seconds=LATE * wanted.interval_s),
    )
    if not verdict.last:
        verdict.fault("", 0, "there is no evidence on this node")
    _say({"sound": verdict.sound, **asdict(verdict)})
    for fault in verdict.faults:
        sys.stderr.write(f"{fault.segment or 'evidence'}{f':{fault.line}' if fault.line else ''}: {fault.what}\n")
    return int(Exit.OK if verdict.sound else Exit.UNTRUSTED)


def _export(wanted: Settings, log: EvidenceLog, after: int) -> int:
    """A line about the node and its head, then for each segment from the one that holds ``after`` on its name and its lines."""
    head = log.head()
    said = {"node": wanted.node, "key": _hex(log.public()), "head": asdict(head) if head else None}
    out = sys.stdout.buffer
    out.write(json.dumps(said).encode() + b"\n")
    paths = log.segments()
    begins = [_first(path) for path in paths]
    from_here = max((i for i, n in enumerate(begins) if n <= after), default=0)
    for path in paths[from_here:]:
        out.write(json.dumps({"segment": path.name}).encode() + b"\n")
        out.write(path.read_bytes())
    out.flush()
    return int(Exit.OK)


def _first(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return int(egress_chain.parse(file.readline(egress_chain.MAX_LINE + 1).rstrip(b"\n"))["n"])
    except ValueError:
        return 0


def _key(log: EvidenceLog, *, dry: bool) -> int:
    made = not log.has_key() if dry else log.ensure_key()
    _say({"changed": made, "key": _hex(log.public()) if log.has_key() else ""})
    return int(Exit.OK)


def _hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="appliance-engine egress", description="Proof that this node is shut, and its evidence."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser(
        "prove", help="try to get out, and write down what came of it; 0 only when all was refused by our rules"
    )
    verbs.add_parser("verify", help="check the evidence; 0 only when nothing was changed, moved, cut or put in")
    export = verbs.add_parser("export", help="print the evidence for the control host")
    export.add_argument("--after", type=int, default=0, metavar="N", help="leave out segments that end before record N")
    key = verbs.add_parser("key", help="make the signing key if there is none, and print its public half")
    key.add_argument("--dry-run", action="store_true", help="make none")
    for verb in verbs.choices.values():
        verb.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="what the firewall role wrote")
        verb.add_argument("--state", type=Path, default=STATE, metavar="DIR", help="where key and evidence are")
    return parser
