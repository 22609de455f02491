"""A node's answer to preflight: read, judged and shown by the control host before anything of the node is trusted."""

from __future__ import annotations

import json
from dataclasses import asdict

from engine.preflight.judge import judge
from engine.talk import Talk
from installer.site.inventory import Connection
from installer.site.preflight import _clean
from installer.site.remote import MAX_TEXT, understand
from tests.fuzz.targets import FuzzTarget
from tests.nodefacts import expected, node, said, without_gpu

NODE = Connection("192.0.2.1", user="root")


def node_facts(data: bytes) -> None:
    """Whatever a node says becomes an answer, and every answer becomes findings that a terminal can show."""
    lines = ((1.0, b"w hello 1.5"), (2.0, b"w facts " + data))
    answer = understand(Talk(0, lines, "", ""), "w", 0.0, NODE)
    assert (answer.facts is None) == (answer.failure == "garbled")
    if answer.facts is None:
        return
    for finding in map(_clean, judge(answer.facts, expected())):
        assert finding.severity in ("pass", "warn", "fail")
        assert finding.what and (finding.severity == "pass" or finding.remedy)
        assert finding.what.isprintable() and finding.remedy.isprintable()
        assert len(finding.what) < 64 * MAX_TEXT


def _seeds() -> list[bytes]:
    documents = ("h200-healthy", "h200-ecc", "h200-fabric", "h200-lost", "h200-mig", "mismatch")
    facts = [*(node(nvml=said(name)) for name in documents), without_gpu(), node(troubles={"memory": "late"})]
    return [json.dumps(asdict(one)).encode() for one in facts]


TARGETS = {"node_facts": FuzzTarget(node_facts, _seeds)}
