"""``python -m engine.firewall VERB``: JSON on standard output, words on standard error, an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine import nft, strictjson
from engine.errors import ApplianceError, Exit, InputError
from engine.firewall import Firewall
from engine.firewall_rules import Rules


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; ``status`` fails unless the confirmed rules are in force."""
    asked = _parser().parse_args(argv)
    try:
        result, code = _do(asked, Firewall())
    except ApplianceError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write(json.dumps(result, indent=2, sort_keys=True) + "\n")
    return int(code)


def _do(asked: argparse.Namespace, firewall: Firewall) -> tuple[dict[str, Any], Exit]:
    match asked.verb:
        case "apply" if asked.check:
            return _check(firewall, _rules()), Exit.OK
        case "apply":
            return asdict(firewall.apply(_rules(), confirm_within_s=asked.confirm_within)), Exit.OK
        case "confirm":
            return {"confirmed": firewall.confirm()}, Exit.OK
        case "rollback":
            return {"rolled_back": firewall.rollback(asked.reason)}, Exit.OK
        case "load":
            firewall.load(wait_s=asked.wait)
    found = firewall.status()
    return found, Exit.OK if found["loaded"] == "active" else Exit.FAILED


def _check(firewall: Firewall, rules: Rules) -> dict[str, Any]:
    if not nft.installed():  # a dry run on a fresh node: the real run installs it first
        return {"changed": True, "digest": rules.digest, "checked": False}
    return {"changed": firewall.check(rules), "digest": rules.digest, "checked": True}


def _rules() -> Rules:
    try:
        found = strictjson.loads(sys.stdin.read().encode())
    except ValueError as error:
        raise InputError(f"standard input is no JSON: {error}", remedy="Let the firewall role make it.") from error
    if not isinstance(found, dict):
        raise InputError("standard input is no JSON object", remedy="Let the firewall role make it.")
    return Rules.of(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.firewall", description="The firewall of this node.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    apply = verbs.add_parser("apply", help="load the rules given as JSON on standard input, to be confirmed in time")
    apply.add_argument("--confirm-within", type=int, default=60, metavar="SECONDS", help="then they are rolled back")
    apply.add_argument("--check", action="store_true", help="only say whether it would change anything")
    verbs.add_parser("confirm", help="keep the applied rules; boot loads them from now on")
    rollback = verbs.add_parser("rollback", help="put back what was loaded before the unconfirmed apply")
    rollback.add_argument("--reason", default="asked for", help="written down with the outcome")
    load = verbs.add_parser("load", help="load the confirmed rules, as boot does")
    load.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for interfaces that are not there yet")
    verbs.add_parser("status", help="what is loaded and pending, and the counters")
    return parser
