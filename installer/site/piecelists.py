"""Lists of pieces that the depot hands to nodes, so that these can check what they relay (engine.pieces); made once for each blob."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine import durable, pieces
from engine.blobs import Blobs
from engine.report import Report, Silent
from engine.trust import Target

DIGEST = re.compile(r"[0-9a-f]{64}")


def ensure(place: Path, blobs: Blobs, targets: Iterable[Target], report: Report | None = None) -> int:
    """Make the lists that are missing for blobs long enough to have one; drop those of blobs that are gone.

    Args:
        place: directory of the lists, which the web server's user reads.

    Returns:
        How many were made.
    """
    report = report or Silent()
    with durable.disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
        for path in place.iterdir():
            if not DIGEST.fullmatch(path.name) or not blobs.path(path.name).exists():
                path.unlink()
    lacking = {
        t.sha256: t
        for t in targets
        if t.size >= pieces.LEAST and not (place / t.sha256).is_file() and blobs.has(t.sha256, t.size)
    }.values()
    if not lacking:
        return 0
    report.begin("list pieces", sum(t.size for t in lacking))

    def make(target: Target) -> None:
        with blobs.path(target.sha256).open("rb", buffering=0) as file:
            raw = pieces.make(file)
        durable.write(place / target.sha256, raw)
        report.advance("list pieces", target.size)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as makers:
        list(makers.map(make, sorted(lacking, key=lambda t: -t.size)))
    report.end("list pieces")
    return len(lacking)
