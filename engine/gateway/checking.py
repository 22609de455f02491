"""Reading a configuration: its shape, and that its parts know each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.errors import InputError
from engine.gateway import document
from engine.gateway.configuration import ORDER, Configuration, Tenant

Fault = tuple[document.Key, str]


def load(path: Path) -> Configuration:
    """Read and check a configuration.

    Raises:
        InputError: with one line per fault, each naming file, line and key.
    """
    read = document.load(path)
    found = document.parse(read, Configuration)
    if faults := [read.fault(key, what) for key, what in contradictions(found)]:
        raise InputError("\n".join(faults), remedy="Correct it there; nothing was changed.")
    return found


def contradictions(config: Configuration) -> Iterator[Fault]:
    """What is wrong between parts of a configuration: where, and what. Pure."""
    models = {m.name for m in config.models}
    yield from _unique(("models", i, "name", m.name) for i, m in enumerate(config.models))
    yield from _unique(("tenants", i, "name", t.name) for i, t in enumerate(config.tenants))
    yield from _unique(("issuers", i, "issuer", s.issuer) for i, s in enumerate(config.issuers))
    yield from _unique(_identities(config))
    yield from _unique(
        ("tenants", i, "keys", j, "sha256", k.sha256)
        for i, t in enumerate(config.tenants)
        for j, k in enumerate(t.keys)
    )
    yield from _unique(
        ("tenants", i, "certificates", j, "san", c.san)
        for i, t in enumerate(config.tenants)
        for j, c in enumerate(t.certificates)
    )
    for i, tenant in enumerate(config.tenants):
        yield from _tenant(("tenants", i), tenant, models)
    yield from _rules(config)
    yield from _models(config)


def _tenant(at: document.Key, tenant: Tenant, models: set[str]) -> Iterator[Fault]:
    yield from _unique((*at, "projects", j, "name", p.name) for j, p in enumerate(tenant.projects))
    for j, name in enumerate(tenant.models):
        if name not in models:
            yield (*at, "models", j), f"there is no model {name!r}"
    for j, key in enumerate(tenant.keys):
        yield from _project((*at, "keys", j), tenant, key.project)
    for j, certificate in enumerate(tenant.certificates):
        yield from _project((*at, "certificates", j), tenant, certificate.project)


def _project(at: document.Key, tenant: Tenant, project: str | None) -> Iterator[Fault]:
    if project is not None and project not in {p.name for p in tenant.projects}:
        yield (*at, "project"), f"tenant {tenant.name} has no project {project!r}"


def _rules(config: Configuration) -> Iterator[Fault]:
    tenants = {t.name: t for t in config.tenants}
    for i, issuer in enumerate(config.issuers):
        for j, rule in enumerate(issuer.rules):
            at: document.Key = ("issuers", i, "rules", j)
            if (owner := tenants.get(rule.tenant)) is None:
                yield (*at, "tenant"), f"there is no tenant {rule.tenant!r}"
            else:
                yield from _project(at, owner, rule.project)


def _models(config: Configuration) -> Iterator[Fault]:
    least = sum(config.classes[c].minimum_slots for c in ORDER)
    for i, model in enumerate(config.models):
        if model.output_tokens > model.context_tokens:
            yield ("models", i, "output_tokens"), "must not be more than context_tokens"
        if least > (slots := model.slots * len(model.replicas)):
            yield ("models", i, "slots"), f"{slots} slots are fewer than the classes' minimum_slots together ({least})"


def _identities(config: Configuration) -> Iterator[tuple[str | int, ...]]:
    for i, tenant in enumerate(config.tenants):
        for j, key in enumerate(tenant.keys):
            yield "tenants", i, "keys", j, "id", key.id
        for j, certificate in enumerate(tenant.certificates):
            yield "tenants", i, "certificates", j, "id", certificate.id
    for i, issuer in enumerate(config.issuers):
        for j, rule in enumerate(issuer.rules):
            yield "issuers", i, "rules", j, "id", rule.id


def _unique(entries: Iterable[tuple[str | int, ...]]) -> Iterator[Fault]:
    """A fault for each entry (a key and its value) whose value came before."""
    seen: set[str | int] = set()
    for *key, value in entries:
        if value in seen:
            yield tuple(key), "is used twice" if key[-1] == "sha256" else f"{value!r} is used twice"
        seen.add(value)
