"""A snapshot as a worker uses it: looked up by credential, never changed, replaced whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.gateway.configuration import ORDER, Class, Configuration, Credential, Limits, ServedModel, Tenant
from engine.gateway.worker.prepare import ModelTerms, Terms
from engine.gateway.worker.tokens import Tokens


@dataclass(frozen=True)
class Subject:
    """Who asks.

    Attributes:
        credential: its identifier, which limits and the audit log know it by.
        proof: what must still be in the snapshot for it to count: a hash of a key, a name in a certificate, an issuer and ``kid``.
        until: when it ends, in seconds since 1970.
    """

    kind: Credential
    credential: str
    proof: str
    tenant: str
    project: str | None
    cost_centre: str
    highest_class: Class
    begins: float = 0.0
    until: float = float("inf")


class Policy:
    """Everything that a worker decides by.

    Attributes:
        keys: subjects by the SHA-256 of their API key. certificates: by subject alternative name.
    """

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.generation: int = snapshot["generation"]
        self.config = Configuration.model_validate(snapshot["config"])
        self.tokens = Tokens(self.config, snapshot["keys"])
        self.tenants = {t.name: t for t in self.config.tenants}
        self.models = {m.name: m for m in self.config.models}
        self.keys: dict[str, Subject] = {}
        self.certificates: dict[str, Subject] = {}
        self.rules: dict[str, Subject] = {}
        self._limits: dict[str, Limits] = {}
        self._terms: dict[tuple[str, str], Terms] = {}
        for tenant in self.config.tenants:
            for key in tenant.keys:
                times = {"begins": key.created.timestamp(), "until": key.expires.timestamp()}
                self.keys[key.sha256] = _subject("key", key, key.sha256, tenant, **times)
                self._limits[key.id] = key.limits
            for certificate in tenant.certificates:
                self.certificates[certificate.san] = _subject("certificate", certificate, certificate.san, tenant)
                self._limits[certificate.id] = certificate.limits
        for issuer in self.config.issuers:
            for rule in issuer.rules:
                self.rules[rule.id] = _subject("token", rule, "", self.tenants[rule.tenant])
                self._limits[rule.id] = rule.limits

    def holds(self, subject: Subject, now: float) -> bool:
        """Whether a credential that was good before still is, and still means the same."""
        if subject.kind == "token":
            issuer, _, kid = subject.proof.partition("\0")
            found = self.rules.get(subject.credential)
            good = self.tokens.trusts(issuer, kid)
        else:
            found = (self.keys if subject.kind == "key" else self.certificates).get(subject.proof)
            good = True
        same = found is not None and (found.credential, found.tenant, found.project) == (
            subject.credential,
            subject.tenant,
            subject.project,
        )
        return good and same and now < subject.until

    def terms(self, subject: Subject) -> Terms:
        """What holds for a subject's requests."""
        known = self._terms.get((subject.kind, subject.credential))
        if known is None:
            known = self._terms[subject.kind, subject.credential] = self._make_terms(subject)
        return known

    def _make_terms(self, subject: Subject) -> Terms:
        tenant = self.tenants[subject.tenant]
        bounds = self.config.bounds
        own = [
            self._limits[subject.credential],
            tenant.limits,
            *(p.limits for p in tenant.projects if p.name == subject.project),
        ]
        return Terms(
            {name: _model_terms(self.models[name], [*own, self.models[name].limits]) for name in tenant.models},
            subject.highest_class,
            {c: _sent(self.config, c) for c in ORDER},
            # vLLM takes 128 characters at most, and not all.
            hashlib.sha256(f"{self.config.cache_salt(subject.tenant)}".encode()).hexdigest(),
            bounds.depth,
            bounds.values,
        )


def _subject(kind: Credential, entry: Any, proof: str, tenant: Tenant, **times: float) -> Subject:
    centre = next(
        (p.cost_centre for p in tenant.projects if p.name == entry.project and p.cost_centre), tenant.cost_centre
    )
    highest = entry.highest_class or tenant.highest_class
    highest = ORDER[max(ORDER.index(highest), ORDER.index(tenant.highest_class))]  # never above the tenant's
    return Subject(kind, entry.id, proof, tenant.name, entry.project, centre, highest, **times)


def _model_terms(model: ServedModel, limits: list[Limits]) -> ModelTerms:
    fits = min(_token_limits(limits), default=None)
    return ModelTerms(
        model.upstream_name, frozenset(model.endpoints), model.context_tokens, model.output_tokens, model.max_choices, model.images,
        model.bytes_per_token, fits,
    )  # fmt: skip


def _token_limits(limits: list[Limits]) -> Iterator[int]:
    for entry in limits:
        yield from (n for n in (entry.tokens_per_minute, entry.tokens_per_day, entry.tokens_per_month) if n is not None)


def _sent(config: Configuration, name: Class) -> dict[str, int]:
    policy = config.classes[name]
    return {
        k: v for k, v in (("stream_interval", policy.stream_interval), ("priority", policy.priority)) if v is not None
    }
