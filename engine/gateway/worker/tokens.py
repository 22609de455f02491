"""Access tokens (JWT) checked against local key sets. The key, its algorithm and the issuer come from the configuration, never from the token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from engine.gateway.configuration import Configuration, Issuer, Rule

MAX_TOKEN = 16 << 10
MAX_VERDICTS = 10_000
LEAST_RSA_BITS = 2048
TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
KINDS: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class TokenError(Exception):
    """The token counts for nothing. The text is for the log and names no part of it."""


@dataclass(frozen=True)
class Trusted:
    """A public key with what its set says it is for."""

    key: Key
    algorithm: str | None


def key_set(found: Any) -> dict[str, Trusted]:
    """Public signature keys by their ``kid``; a key without one only where it is alone, as ``""``.

    Raises:
        ValueError: it is not a JWKS, or holds a secret.
    """
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys or len(keys) > 100:
        raise ValueError("it must be an object with 1 to 100 keys")
    made: dict[str, Trusted] = {}
    for entry in keys:
        if not isinstance(entry, dict) or entry.keys() & PRIVATE:
            raise ValueError("it holds a private or symmetric key")
        if entry.get("use", "sig") != "sig" or (kind := KINDS.get(entry.get("kty", ""))) is None:
            continue  # keys for encryption, or of kinds that nothing here verifies with
        kid = entry.get("kid", "")
        if not isinstance(kid, str) or (not kid and len(keys) > 1) or kid in made:
            raise ValueError("each of several keys needs a kid of its own")
        try:
            key = kind.import_key(entry)
        except (JoseError, ValueError, TypeError, KeyError, binascii.Error) as error:
            raise ValueError(f"a key cannot be read: {type(error).__name__}") from None
        if isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS:
            raise ValueError(f"an RSA key is shorter than {LEAST_RSA_BITS} bits")
        made[kid] = Trusted(key, entry.get("alg"))
    if not made:
        raise ValueError("it has no key that signatures can be checked with")
    return made


class Tokens:
    """Checks tokens for one snapshot; verdicts are kept by the SHA-256 of the whole token until it expires."""

    def __init__(self, config: Configuration, keys: Mapping[str, Any]) -> None:
        self._issuers: dict[str, tuple[Issuer, dict[str, Trusted]]] = {
            i.issuer: (i, key_set(keys[i.issuer])) for i in config.issuers
        }
        self._verdicts: dict[bytes, tuple[Rule, str, float]] = {}

    def check(self, token: str, now: float | None = None) -> tuple[Rule, str]:
        """The rule that a valid token meets, and the ``kid`` it was signed with, for asking later whether that is still trusted.

        Raises:
            TokenError: anything about it is not as it must be.
        """
        now = time.time() if now is None else now
        if len(token) > MAX_TOKEN:
            raise TokenError("too long")
        mark = hashlib.sha256(token.encode()).digest()
        if (known := self._verdicts.get(mark)) is not None:
            if known[2] > now:
                return known[0], known[1]
            del self._verdicts[mark]
            raise TokenError("expired")
        rule, kid, until = self._verify(token, now)
        if len(self._verdicts) >= MAX_VERDICTS:
            self._verdicts.clear()
        self._verdicts[mark] = (rule, kid, until)
        return rule, kid

    def trusts(self, issuer: str, kid: str) -> bool:
        """Whether a key is (still) in an issuer's set."""
        found = self._issuers.get(issuer)
        return found is not None and kid in found[1]

    def _verify(self, token: str, now: float) -> tuple[Rule, str, float]:
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenError("not a signed token")
        header, claims = _part(parts[0]), _part(parts[1])
        issuer, trusted = self._issuers.get(str(claims.get("iss")), (None, {}))
        if issuer is None:
            raise TokenError("unknown issuer")
        algorithm, kid = header.get("alg"), header.get("kid", "")
        if algorithm not in issuer.algorithms:
            raise TokenError("an algorithm that is not allowed")
        if "crit" in header or str(header.get("typ", "")).lower() not in TYPES:
            raise TokenError("a header that is not understood")
        key = trusted.get(kid) if isinstance(kid, str) else None
        if key is None or key.algorithm not in (None, algorithm):
            raise TokenError("an unknown key")
        try:
            jws.deserialize_compact(token, key.key, algorithms=[algorithm])
        except (JoseError, ValueError, TypeError) as error:
            raise TokenError(f"the signature: {type(error).__name__}") from None
        return _rule(issuer, claims), f"{issuer.issuer}\0{kid}", _until(issuer, claims, now)


def _part(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        raise TokenError("not a token") from None
    if not isinstance(found, dict):
        raise TokenError("not a token")
    return found


def _until(issuer: Issuer, claims: Mapping[str, Any], now: float) -> float:
    """When the token ends, after its claims were checked."""
    audience = claims.get("aud")
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenError("another audience")
    times: dict[str, Any] = {name: claims.get(name) for name in ("exp", "nbf", "iat")}
    if (
        any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in times.values())
        or times["exp"] is None
    ):
        raise TokenError("times that are missing or not numbers")
    if times["exp"] + issuer.leeway_s <= now:
        raise TokenError("expired")
    if any(times[name] is not None and times[name] - issuer.leeway_s > now for name in ("nbf", "iat")):
        raise TokenError("not valid yet")
    return float(times["exp"] + issuer.leeway_s)


def _rule(issuer: Issuer, claims: Mapping[str, Any]) -> Rule:
    for rule in issuer.rules:
        value = claims.get(rule.claim)
        if value == rule.value or (isinstance(value, list) and rule.value in value):
            return rule
    raise TokenError("no rule for its claims")
