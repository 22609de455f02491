"""`appliance-gateway`: the gateway's programs. Units start ``serve`` and ``ledger``; people use the others."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine import outlet, refusals
from engine.errors import ApplianceError, Exit, ResourceError


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; a failure ends as one JSON document on standard error and an exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        sys.exit(given.run(given) or Exit.OK)
    except ApplianceError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        _fail(
            ResourceError(
                f"{error.name} is not installed here", remedy="Run this on a gateway host, whose environment has it."
            )
        )
    except OSError as error:
        if (found := refusals.explained(error)) is None:
            raise  # a fault of the program
        _fail(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="appliance-gateway", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, about: str, run: object, *, config: bool = True) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=about, description=about)
        if config:
            made.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration")
        made.set_defaults(run=run)
        return made

    serve = verb("serve", "answer requests that nginx passes on", _serve)
    serve.add_argument("--socket", type=Path, required=True, help="the unix socket to listen on")
    ledger = verb("ledger", "keep budgets, slots and the audit log", _ledger)
    ledger.add_argument("--socket", type=Path, required=True, help="the unix socket to listen on")
    verb("check", "say what is wrong with a configuration; exits with 2 if anything is", _check)
    key = verb(
        "key",
        "make an API key: the key on standard output, once, and its entry for the configuration on standard error",
        _key,
    )
    key.add_argument("--id", required=True, help="name of the key, unique in the site")
    key.add_argument("--days", type=int, default=90, help="days until it expires, 30 to 90 (default: 90)")
    key.add_argument("--project", help="the project that it belongs to")
    audit = verbs.add_parser("audit", help="verify, report or export the audit log").add_subparsers(
        required=True, metavar="VERB"
    )
    for name, about in (
        ("verify", "check the hash chain and its signatures"),
        ("report", "requests, tokens and cost by tenant, project and cost centre"),
        ("export", "write records as JSON lines"),
    ):
        made = audit.add_parser(name, help=about, description=about)
        made.add_argument("--directory", type=Path, required=True, help="the directory with audit-*.jsonl")
        made.set_defaults(run=_audit, verb=name)
        if name == "verify":
            made.add_argument("--key", type=Path, required=True, help="the public key of checkpoints (PEM)")
            made.add_argument("--checkpoint", type=Path, help="the last exported checkpoint, kept elsewhere")
        else:
            made.add_argument("--since", default="", metavar="TIME", help="from this time on (ISO 8601)")
            made.add_argument("--until", default="", metavar="TIME", help="before this time (ISO 8601)")
        if name == "report":
            made.add_argument(
                "--config", type=Path, required=True, metavar="FILE", help="the configuration, for prices"
            )
    return parser


def _serve(given: argparse.Namespace) -> None:
    from engine.gateway.worker.server import serve  # noqa: PLC0415  # each verb loads only what it needs

    serve(given.config, given.socket)


def _ledger(given: argparse.Namespace) -> None:
    import uvloop  # noqa: PLC0415

    from engine.gateway.ledger.server import Server  # noqa: PLC0415

    async def run() -> None:
        await Server(given.config).run(given.socket)

    uvloop.run(run())


def _check(given: argparse.Namespace) -> None:
    from engine.gateway import snapshot  # noqa: PLC0415
    from engine.gateway.ledger import selftest  # noqa: PLC0415

    config, _ = snapshot.read(given.config)
    if failures := selftest.run(config):
        raise ApplianceError("a configured limit does not refuse: " + "; ".join(failures))
    outlet.result(json.dumps({"ok": True, "models": len(config.models), "tenants": len(config.tenants)}) + "\n")


def _key(given: argparse.Namespace) -> None:
    from engine.gateway import checking, keys  # noqa: PLC0415

    made = keys.make(checking.load(given.config).site, given.id, given.days)
    outlet.tell(made.entry(given.project))
    outlet.result(made.text + "\n")


def _audit(given: argparse.Namespace) -> int:
    from engine.gateway.audit.cli import run  # noqa: PLC0415

    return run(given)


def _fail(error: ApplianceError) -> NoReturn:
    outlet.tell(json.dumps({"error": {"what": error.what, "where": error.where, "remedy": error.remedy}}) + "\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
