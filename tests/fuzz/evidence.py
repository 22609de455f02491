"""A node's evidence: read, checked and shown by the control host before anything of the node is believed."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from engine.egress_log import Bounds, EvidenceLog
from engine.talk import Talk
from installer.site.egress import Evidence, judge, shown, understand
from tests.fuzz.targets import FuzzTarget, scratch


def _log() -> EvidenceLog:
    log = EvidenceLog(scratch() / "egress", Bounds(segment_bytes=2000, seal_every=3), node="n")
    if log.ensure_key():
        for good in (True, True, False, True, True, True, True):
            log.append("proof", {"good": good, "faults": [] if good else ["the table is gone"]}, seal=not good)
    return log


def _key() -> str:
    return _log().public().public_bytes_raw().hex()


def egress_evidence(data: bytes) -> None:
    """Whatever a node exports is refused in a sentence or becomes a verdict, and only what it signed is sound."""
    try:
        export = understand(Talk(0, tuple((0.0, line) for line in data.split(b"\n")[:-1]), "", ""))
    except ValueError:
        return
    found = Evidence("n")
    verdict = judge(found, export, _key(), None, now=datetime.now(UTC), late_after=timedelta(days=9999))
    assert (verdict is None) == (export.key != _key())
    if found.good:
        written = [line for _, lines in _log().lines() for line in lines]
        assert [line for _, lines in export.segments for line in lines] == written
    for text in (*(said := shown(found)).problems, *said.notes, *said.last_faults, said.last_time):
        assert text.isprintable()


def _seeds() -> list[bytes]:
    log, head = _log(), _log().head()
    assert head is not None
    said = [json.dumps({"node": "n", "key": _key(), "head": asdict(head)}).encode()]
    for name, lines in log.lines():
        said += [json.dumps({"segment": name}).encode(), *lines]
    return [b"\n".join(said) + b"\n", b"\n".join(said[:2]) + b"\n"]


TARGETS = {"egress_evidence": FuzzTarget(egress_evidence, _seeds)}
