"""`appliance-engine verify`: check a bundle with nothing but Python and the verifier; the starting kit runs this."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from engine import durable, outlet, rootstore
from engine.copying import copy_target
from engine.errors import Exit, InputError
from engine.report import Silent, printable
from engine.trust import Trusted, read_root
from engine.verify import verify

KIT = "./verify"  # how the starting kit's script calls itself; it gives its own root.json


class _Percent(Silent):
    """A percentage on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._shown = 0.0

    def begin(self, task: str, total_bytes: int | None = None) -> None:
        self._total, self._done = total_bytes or 0, 0

    def advance(self, task: str, n_bytes: int) -> None:
        self._done += n_bytes
        if outlet.terminal() and self._total and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            outlet.tell(f"\r{task}: {100 * self._done // self._total} %")

    def end(self, task: str) -> None:
        if outlet.terminal():
            outlet.tell("\r\033[K")


def take(bundle: Path, trusted: Trusted, path: str, destination: Path) -> None:
    """Copy a directory of a bundle, hashing the bytes that are written: a medium may answer differently the second time.

    Raises:
        InputError: nothing signed is there, or the destination exists.
        TrustError: a file is not what it was a moment ago; nothing is left at the destination.
    """
    below = f"{path.strip('/')}/"
    wanted = [t for t in trusted.targets.values() if t.path.startswith(below)]
    if not wanted or destination.exists():
        raise InputError(
            "it exists already" if wanted else f"the bundle has nothing below {below}",
            where=str(destination) if wanted else str(bundle),
            remedy="Name a directory of the bundle, and a destination that does not exist.",
        )
    staging = destination.with_name(f".{destination.name}.taking")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for target in wanted:
            copy_target(bundle, target, staging / target.path.removeprefix(below))
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    staging.rename(destination)
    durable.sync_dir(destination.absolute().parent)


def main(argv: list[str]) -> int:
    """Print what is wrong, a line a file; exit 0 when nothing is, else 3."""
    kit = sys.argv[0] == KIT
    parser = argparse.ArgumentParser(
        prog=KIT if kit else "appliance-engine verify",
        description="Check a bundle: signatures first, then every file against them.",
    )
    parser.add_argument("bundle", type=Path, help="bundle directory, NAME-VERSION")
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help=argparse.SUPPRESS if kit else "pinned root of trust; never from the bundle",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--take", default="", metavar="PATH", help="copy this directory of the bundle, once it is good")
    parser.add_argument("--to", type=Path, metavar="DIRECTORY", help="where --take copies to; must not exist")
    options = parser.parse_args(argv)
    if bool(options.take) != bool(options.to):
        parser.error("--take and --to go together")
    pinned = read_root(options.root)
    outcome = verify(options.bundle, pinned, report=_Percent(), roots=rootstore.of_user())
    trusted = outcome.trusted
    if options.take and outcome.good:
        take(options.bundle, trusted, options.take, options.to)
    if options.json:
        document = {
            "release": trusted.release, "version": trusted.version, "expires": trusted.expires, "good": outcome.good,
            "files": len(trusted.targets), "size": trusted.size, "findings": [vars(f) for f in outcome.findings],
        }  # fmt: skip
        outlet.result(json.dumps(document) + "\n")
    else:
        lines = [
            f"{finding.problem:<8} {printable(finding.path, '')}  {printable(finding.detail)}\n"
            for finding in outcome.findings
        ]
        word = "is good" if outcome.good else f"IS NOT GOOD: {len(outcome.findings)} findings"
        lines.append(
            f"{trusted.release} {word}; {len(trusted.targets)} files, {trusted.size:,} bytes, version {trusted.version}, "
            f"valid until {trusted.expires[:10]}\n"
        )
        outlet.result("".join(lines))
    return 0 if outcome.good else Exit.UNTRUSTED
