"""`appliance-engine store`: verify what the node holds, show what is known of it, check one model before it is served."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine import durable, trust
from engine.blobs import Blobs
from engine.errors import ApplianceError, Exit, TrustError
from engine.fetch import STORE
from engine.report import Silent, printable
from engine.store import holdings, metrics, state
from engine.store.verifying import Pace, Verifier

ROOT = Path("/etc/appliance/trust/root.json")
RECORD = Path("/var/lib/appliance/verification/state.json")
SERVICES = Path("/etc/appliance/vllm")


class _Journal(Silent):
    """What is said goes to standard error, which is the journal of the unit."""

    def say(self, text: str) -> None:
        sys.stderr.write(f"{printable(text)}\n")


def main(argv: list[str]) -> int:
    """Run one verb; prints one JSON document."""
    options = _parser().parse_args(argv)
    match options.verb:
        case "verify":
            return verify(options)
        case "status":
            sys.stdout.write(json.dumps(asdict(state.read(options.record))) + "\n")
            return Exit.OK
        case _:
            return check(options)


def verify(options: argparse.Namespace) -> int:
    """One pass, or the part of it that fits into the time; exit 3 while anything is bad."""
    options.record.parent.mkdir(parents=True, exist_ok=True)
    with (options.record.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ApplianceError(
                "another verification is under way", where=str(options.record), remedy="Wait for it to end."
            ) from None
        asked = _asked_to_end()
        report, known = _Journal(), state.State()
        try:
            known = state.read(options.record)
        except TrustError as error:
            report.say(f"{error.what}; a new pass begins")
        pace = Pace(options.rate, time.monotonic() + options.budget, lambda: bool(asked))

        def publish(now: state.State) -> None:
            if options.metrics:
                durable.write(options.metrics, metrics.render(now))

        serving = holdings.services(options.services)
        verifier = Verifier(options.store, options.record, serving=serving, keep=publish, report=report)
        found = verifier.run(known, pace)
        found = replace(found, unsigned=_unsigned(options, report))
        found.write(options.record)
        publish(found)
    sys.stdout.write(json.dumps({"complete": found.running is None, **asdict(found)}) + "\n")
    return Exit.UNTRUSTED if found.bad or found.unsigned else Exit.OK


def _unsigned(options: argparse.Namespace, report: Silent) -> tuple[str, ...]:
    root, views = Blobs(options.store / "blobs").root, options.store / "views"
    wrong: list[str] = []
    for release in holdings.signed(options.store / "trust", trust.read_root(options.root)):
        wrong += holdings.strangers(views, root, release)
    for path in wrong:
        report.say(
            f"{path} is not the file that was signed under this name. Run the install again, which links it anew."
        )
    return tuple(wrong)


def check(options: argparse.Namespace) -> int:
    """Before a service starts: nothing of its model was set aside, and the last pass is not too old; reads the record alone.

    Raises:
        TrustError: a file of the model is bad and was not fetched again.
    """
    known, views = state.read(options.record), options.store / "views"
    model = holdings.model_of(options.config)
    for bad in known.bad:
        if holdings.touched(list(bad.paths), views, [holdings.Service("", model)]) and not all(
            (views / p).exists() for p in bad.paths
        ):
            raise TrustError(
                f"{', '.join(bad.paths)} was found damaged at {bad.at} and set aside", where=model,
                remedy="Run the install again, which fetches it anew; if that repeats, suspect the node's disk.",
            )  # fmt: skip
    old = not known.last or datetime.now(UTC) - datetime.fromisoformat(known.last.ended) > timedelta(
        days=options.max_age
    )
    if old:
        _Journal().say(f"the content of this node was not verified completely within {options.max_age} days")
    sys.stdout.write(json.dumps({"good": True, "verified": known.last.ended if known.last else ""}) + "\n")
    return Exit.OK


def _asked_to_end() -> list[int]:
    """Filled by the signals that ask a process to end; a pass then keeps how far it came."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    return asked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="appliance-engine store", description="The health of this node's content.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("verify", help="hash everything again; goes on where an earlier call was stopped")
    one.add_argument("--root", type=Path, default=ROOT, help="pinned root of trust")
    one.add_argument("--services", type=Path, default=SERVICES, help="configurations of the served models")
    one.add_argument("--metrics", type=Path, help="write the health here in Prometheus' text format")
    one.add_argument("--rate", type=_count, default=0, metavar="BYTES", help="read at most so many bytes a second")
    one.add_argument(
        "--budget", type=_count, default=1 << 31, metavar="SECONDS", help="stop then; the next call goes on"
    )
    two = verbs.add_parser("status", help="what is known of the store")
    three = verbs.add_parser("check", help="refuse a model of which something was set aside")
    three.add_argument("--config", type=Path, required=True, help="configuration of the service that reads it")
    three.add_argument("--max-age", type=_count, default=35, metavar="DAYS", help="say so when the last pass is older")
    for verb in (one, two, three):
        verb.add_argument("--store", type=Path, default=STORE)
        verb.add_argument("--record", type=Path, default=RECORD, help="where the state is kept")
    os.umask(0o022)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number
