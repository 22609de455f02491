"""The configuration: tenants, keys, issuers, models, classes, limits and prices. A role renders it; the ledger hands it to workers.

It holds no secret: of an API key only its SHA-256 is here.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
Short = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Class = Literal["interactive", "default", "batch"]
Endpoint = Literal["chat", "completions", "embeddings", "rerank", "score", "responses", "messages", "tokenize"]
Credential = Literal["certificate", "key", "token"]
# No algorithm with a shared secret: whoever can check such a token can also make one.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
ORDER: tuple[Class, ...] = ("interactive", "default", "batch")  # highest first
KINDS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "tokens_per_month", "concurrent_requests")
MAX_KEY_DAYS = 90
PREFIX = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,62})?/?")
Count = Annotated[int, Field(ge=0, le=1 << 53)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Part):
    """Upper bounds; what is left out is unlimited."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    concurrent_requests: Count | None = None


class ApiKey(Part):
    """An API key: its identifier and the SHA-256 of the whole key. Two keys may be valid at once, so that one can replace the other."""

    id: Short
    sha256: Hex
    project: Name | None = None
    created: datetime
    expires: datetime
    highest_class: Class | None = None
    limits: Limits = Limits()

    @field_validator("created", "expires")
    @classmethod
    def _zoned(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("must name its time zone, for example 2026-12-01T00:00:00Z")
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _span(self) -> ApiKey:
        if not timedelta(0) < self.expires - self.created <= timedelta(days=MAX_KEY_DAYS):
            raise ValueError(f"a key must expire after it was created and within {MAX_KEY_DAYS} days")
        return self


class Certificate(Part):
    """A client certificate by one of its subject alternative names, written as ``DNS:name``, ``URI:address`` or ``EMAIL:address``."""

    id: Short
    san: Annotated[str, Field(pattern=r"^(DNS|URI|EMAIL):[!-~]{1,512}$")]
    project: Name | None = None
    highest_class: Class | None = None
    limits: Limits = Limits()


class Project(Part):
    name: Name
    cost_centre: Name | None = None
    limits: Limits = Limits()


class Tenant(Part):
    name: Name
    cost_centre: Name
    models: tuple[Name, ...]
    # What identifies a request: each entry is a set of credentials that are enough together.
    accept: tuple[tuple[Credential, ...], ...] = (("key",), ("token",), ("certificate",))
    highest_class: Class = "default"
    projects: tuple[Project, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    limits: Limits = Limits()

    @field_validator("accept")
    @classmethod
    def _combinations(cls, value: tuple[tuple[Credential, ...], ...]) -> tuple[tuple[Credential, ...], ...]:
        if not value or any(not c or len(set(c)) != len(c) for c in value):
            raise ValueError(
                "needs at least one combination of different credentials, for example [[certificate, key]]"
            )
        return value


class Rule(Part):
    """Tokens with this value of this claim belong to this tenant."""

    id: Short
    claim: Annotated[str, Field(min_length=1, max_length=200)]
    value: Annotated[str, Field(min_length=1, max_length=500)]
    tenant: Name
    project: Name | None = None
    highest_class: Class | None = None
    limits: Limits = Limits()


class Issuer(Part):
    issuer: Annotated[str, Field(pattern=r"^https?://[!-~]{1,500}$")]
    audience: Annotated[str, Field(min_length=1, max_length=500)]
    jwks: Path
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)]
    leeway_s: Annotated[int, Field(ge=0, le=120)] = 30
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]


class Replica(Part):
    """A model server: ``unix:/path``, ``http://127.0.0.1:port`` or ``https://host:port`` with a client certificate. The last two may end with
    ``/name``, which then stands before every path that is asked for."""

    url: Annotated[str, Field(max_length=500)]
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    server_name: str | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Replica:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme == "unix":
            if not parts.path.startswith("/") or parts.netloc:
                raise ValueError("must be unix:/absolute/path")
        elif parts.scheme == "https":
            if not (parts.hostname and port and self.certificate and self.key and self.ca):
                raise ValueError("an https replica needs host, port, certificate, key and ca")
        elif parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "::1") or not port:
            raise ValueError("must be unix:/path, https://host:port, or http://127.0.0.1:port")
        if parts.scheme != "unix" and (not PREFIX.fullmatch(parts.path) or parts.query or parts.username):
            raise ValueError("must have no query or user, and no path but one /name before those of the API")
        return self


class Price(Part):
    """Cost of a million tokens, in units of ``Configuration.currency``."""

    input_per_million: Annotated[float, Field(ge=0)] = 0.0
    output_per_million: Annotated[float, Field(ge=0)] = 0.0
    cached_per_million: Annotated[float, Field(ge=0)] | None = None


class ServedModel(Part):
    """A model as clients name it.

    Attributes:
        served_name: what the replicas call it, when that differs.
        output_tokens: most tokens of an answer, and what a request that names no number gets at most.
        slots: requests that one replica answers at once.
    """

    name: Name
    served_name: Name | None = None
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)]
    context_tokens: Annotated[int, Field(ge=1, le=1 << 31)]
    output_tokens: Annotated[int, Field(ge=1, le=1 << 31)]
    replicas: Annotated[tuple[Replica, ...], Field(min_length=1, max_length=256)]
    slots: Annotated[int, Field(ge=1, le=65536)]
    images: bool = False
    max_choices: Annotated[int, Field(ge=1, le=8)] = 1
    bytes_per_token: Annotated[int, Field(ge=1, le=8)] = 3
    limits: Limits = Limits()
    price: Price = Price()

    @property
    def upstream_name(self) -> str:
        return self.served_name or self.name


class ClassPolicy(Part):
    """How requests of a class are admitted.

    Attributes:
        share_percent: of a model's slots, the most that the class may hold.
        minimum_slots: so many requests of the class run even when higher classes wait.
        queue_s: how long a request may wait for a slot.
        queue_length: requests that may wait, by model.
        stream_interval: tokens in a streamed chunk; fewer chunks cost less.
        priority: sent to vLLM where its scheduler takes priorities; lower is earlier.
    """

    share_percent: Annotated[int, Field(ge=1, le=100)] = 100
    minimum_slots: Annotated[int, Field(ge=0)] = 0
    queue_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    queue_length: Annotated[int, Field(ge=0, le=100_000)] = 1000
    stream_interval: Annotated[int, Field(ge=1, le=64)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None


class Classes(Part):
    interactive: ClassPolicy = ClassPolicy(queue_s=10.0)
    default: ClassPolicy = ClassPolicy()
    batch: ClassPolicy = ClassPolicy(share_percent=50, minimum_slots=1, queue_s=600.0, stream_interval=8)

    def __getitem__(self, name: str) -> ClassPolicy:
        found: ClassPolicy = getattr(self, name)
        return found


class LedgerSettings(Part):
    """Where the ledger listens, keeps its state, and finds the key that signs checkpoints (Ed25519, PEM)."""

    socket: Path
    directory: Path
    checkpoint_key: Path
    checkpoints: Path
    checkpoint_lines: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    checkpoint_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    segment_bytes: Annotated[int, Field(ge=1 << 12, le=1 << 32)] = 64 << 20
    retain_days: Annotated[int, Field(ge=1, le=36_500)] = 400
    worker_grace_s: Annotated[float, Field(ge=0.1, le=600)] = 10.0


class Bounds(Part):
    """What a request may be at most, and how long its parts may take."""

    body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 8 << 20
    inline_bytes: Annotated[int, Field(ge=0, le=1 << 24)] = 256 << 10
    depth: Annotated[int, Field(ge=4, le=200)] = 64
    values: Annotated[int, Field(ge=16, le=10_000_000)] = 500_000
    frame_bytes: Annotated[int, Field(ge=1024, le=1 << 26)] = 1 << 20
    answer_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 64 << 20
    connect_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    first_byte_s: Annotated[float, Field(gt=0, le=7200)] = 600.0
    stall_s: Annotated[float, Field(gt=0, le=7200)] = 120.0
    client_stall_s: Annotated[float, Field(gt=0, le=7200)] = 120.0
    ledger_s: Annotated[float, Field(gt=0, le=60)] = 3.0


class Configuration(Part):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    site: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")]
    timezone: str = "UTC"
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    ledger: LedgerSettings
    bounds: Bounds = Bounds()
    classes: Classes = Classes()
    models: Annotated[tuple[ServedModel, ...], Field(min_length=1)]
    tenants: tuple[Tenant, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    # Makes one tenant's prefix cache useless to others; change it and all caches start empty.
    cache_salt_seed: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,128}$")]

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("is not a time zone of this system") from None
        return value

    def cache_salt(self, tenant: str) -> str:
        """The tenant's cache salt (hex), which vLLM mixes into the hashes of its prefix cache."""
        return hashlib.sha256(f"{self.cache_salt_seed}\0{tenant}".encode()).hexdigest()

    def dump(self) -> dict[str, Any]:
        """As JSON, for workers."""
        made: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return made
