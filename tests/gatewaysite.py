"""A small site for tests of the gateway: its configuration as data and as a file, its keys, and its parts in one process."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwk, jwt

from engine.gateway import keys
from engine.gateway.audit.writer import Writer, signing_key
from engine.gateway.checking import load
from engine.gateway.configuration import Configuration
from engine.gateway.ledger.clock import Clock
from engine.gateway.ledger.core import Ledger
from engine.gateway.ledger.wal import Log

KEY = "sk-lab-" + "a" * 43
OTHER_KEY = "sk-lab-" + "b" * 43
ISSUER = "https://login.example.org"
CREATED = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


def key_entry(name: str, text: str, **more: Any) -> dict[str, Any]:
    """An entry of a tenant's keys."""
    times = {"created": CREATED.isoformat(), "expires": (CREATED + timedelta(days=60)).isoformat()}
    return {"id": name, "sha256": keys.digest(text), **times, **more}


def site(where: Path, **changes: Any) -> dict[str, Any]:
    """A site with two tenants and one model, as the configuration has it; ``changes`` replace keys at the top."""
    where.mkdir(parents=True, exist_ok=True)
    signing = where / "checkpoint.pem"
    if not signing.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        signing.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (where / "checkpoint.pub").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return {
        "schema": 1,
        "site": "lab",
        "cache_salt_seed": "0123456789abcdef",
        "ledger": {
            "socket": str(where / "ledger.sock"),
            "directory": str(where / "ledger"),
            "checkpoint_key": str(signing),
            "checkpoints": str(where / "exported"),
        },
        "models": [
            {
                "name": "tiny",
                "endpoints": [
                    "chat",
                    "completions",
                    "embeddings",
                    "rerank",
                    "score",
                    "responses",
                    "messages",
                    "tokenize",
                ],
                "context_tokens": 4096,
                "output_tokens": 256,
                "replicas": [{"url": f"unix:{where / 'model.sock'}"}],
                "slots": 256,
                "price": {"input_per_million": 2.0, "output_per_million": 6.0},
            }
        ],
        "tenants": [
            {
                "name": "team-a",
                "cost_centre": "4711",
                "models": ["tiny"],
                "highest_class": "interactive",
                "projects": [{"name": "search", "cost_centre": "4712"}],
                "keys": [key_entry("a-1", KEY, project="search")],
                "certificates": [{"id": "a-cert", "san": "URI:spiffe://lab/team-a"}],
            },
            {"name": "team-b", "cost_centre": "4713", "models": ["tiny"], "keys": [key_entry("b-1", OTHER_KEY)]},
        ],
        **changes,
    }


def write(where: Path, data: Mapping[str, Any]) -> Path:
    """The configuration as a file, replaced in one step as a role does."""
    path, new = where / "gateway.yml", where / "gateway.yml.new"
    # Through JSON, so that what is shared is written out: aliases are refused.
    new.write_text(yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False))
    new.replace(path)
    return path


def configuration(where: Path, **changes: Any) -> Configuration:
    """The site, checked."""
    return load(write(where, site(where, **changes)))


class Times:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.mono, self.wall = 1000.0, time.time()

    def pass_(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


def ledger(config: Configuration, times: Times | None = None, *, boot: str = "boot-1") -> Ledger:
    """A started ledger over the files of the configuration."""
    clock = (
        Clock(config.timezone, wall=lambda: times.wall, mono=lambda: times.mono) if times else Clock(config.timezone)
    )
    settings = config.ledger
    writer = Writer(settings.directory / "audit", settings, signing_key(settings.checkpoint_key), config.site)
    made = Ledger(config, clock, Log(settings.directory / "state"), writer, boot)
    made.start()
    return made


def entry(**more: Any) -> dict[str, Any]:
    """The facts of a request as a worker tells them."""
    return {
        "credential": "a-1",
        "tenant": "team-a",
        "project": "search",
        "model": "tiny",
        "class": "interactive",
        "endpoint": "chat",
        **more,
    }


def ask(rid: str, hold: int = 10, ceiling: int = 20, **more: Any) -> dict[str, Any]:
    return {"rid": rid, "hold": hold, "ceiling": ceiling, "entry": entry(**more)}


class Provider:
    """An identity provider: keys by kid, and tokens signed with them."""

    def __init__(self) -> None:
        self.keys: dict[str, jwk.Key] = {}

    def add(self, kid: str, algorithm: str) -> None:
        kind: Any
        kind, private = {
            "RS256": (jwk.RSAKey, rsa.generate_private_key(65537, 2048)),
            "ES256": (jwk.ECKey, ec.generate_private_key(ec.SECP256R1())),
            "EdDSA": (jwk.OKPKey, ed25519.Ed25519PrivateKey.generate()),
        }[algorithm]
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]
        self.keys[kid] = kind.import_key(pem, {"kid": kid, "use": "sig", "alg": algorithm})

    def jwks(self, *kids: str) -> dict[str, Any]:
        return {"keys": [self.keys[k].as_dict(private=False) for k in kids or self.keys]}

    def token(self, kid: str, algorithm: str = "RS256", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        body = {"iss": ISSUER, "aud": "gateway", "iat": now, "exp": now + 300, "group": "a", **claims}
        body = {k: v for k, v in body.items() if v is not None}
        return jwt.encode(
            {"alg": algorithm, "kid": kid, **(header or {})}, body, self.keys[kid], algorithms=[algorithm]
        )


def issuer(path: Path, *algorithms: str, **more: Any) -> dict[str, Any]:
    """An entry of the site's issuers."""
    rules = [{"id": "oidc-a", "claim": "group", "value": "a", "tenant": "team-a"}]
    return {
        "issuer": ISSUER,
        "audience": "gateway",
        "jwks": str(path),
        "algorithms": list(algorithms or ("RS256",)),
        "rules": rules,
        **more,
    }


def encoded(part: Any) -> str:
    """JSON as part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@contextmanager
def closing(made: Ledger) -> Iterator[Ledger]:
    try:
        yield made
    finally:
        made.log.close()
