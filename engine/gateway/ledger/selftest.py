"""Proves at start that every limit refuses: those that are configured, and one of each kind. No state is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from engine.gateway.configuration import KINDS, Configuration, Limits
from engine.gateway.ledger.books import Books, Scope
from engine.gateway.ledger.clock import Clock

LARGEST = 1 << 52


def run(config: Configuration) -> list[str]:
    """Limits that let a request pass when they are used up; there must be none."""
    clock = Clock(config.timezone)
    cases = [*_configured(config)]
    for each in ("key", "project", "tenant", "model"):
        cases += [((each, "self-test"), Limits.model_validate({kind: 1})) for kind in KINDS]
    failures = []
    for scope, limits in cases:
        for kind in KINDS:
            if (
                (limit := getattr(limits, kind)) is not None
                and limit < LARGEST
                and not _refuses(scope, kind, limit, clock)
            ):
                failures.append(f"{kind} of {scope[0]} {scope[1]}")
    return failures


def probe(kind: str, clock: Clock) -> dict[str, Any]:
    """What a worker is told for the second of two requests where the limit of this kind allows one."""
    books, now, scope = Books(), clock.now(), ("key", "self-test")
    limits = [(scope, Limits.model_validate({kind: 1}))]
    for rid in ("first", "second"):
        if denial := books.deny(limits, 1, now, clock):
            return {"verdict": "refused", "reason": "limit", **asdict(denial)}
        books.reserve(rid, "self-test", [scope], 1, 1, {}, now)
    return {"verdict": "run"}


def _configured(config: Configuration) -> Iterator[tuple[Scope, Limits]]:
    for model in config.models:
        yield ("model", model.name), model.limits
    for tenant in config.tenants:
        yield ("tenant", tenant.name), tenant.limits
        yield from ((("project", f"{tenant.name}/{p.name}"), p.limits) for p in tenant.projects)
        yield from ((("key", k.id), k.limits) for k in tenant.keys)
        yield from ((("key", c.id), c.limits) for c in tenant.certificates)
    for issuer in config.issuers:
        yield from ((("key", r.id), r.limits) for r in issuer.rules)


def _refuses(scope: Scope, kind: str, limit: int, clock: Clock) -> bool:
    """Whether a request is refused by this limit after the limit was used up."""
    books, now = Books(), clock.now()
    only = Limits.model_validate({kind: limit})
    tokens = limit if kind.startswith("tokens") else 1
    if limit:
        if books.deny([(scope, only)], tokens, now, clock) is not None:
            return False  # it would refuse everything
        books.reserve("fill", "self-test", [scope], tokens, tokens, {}, now)
        usage = books.usages[scope]
        usage.requests, usage.running = max(usage.requests, limit), max(usage.running, limit)
    denial = books.deny([(scope, only)], 1, now, clock)
    return denial is not None and denial.kind == kind
