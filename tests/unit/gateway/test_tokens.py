"""Access tokens: what is checked comes from the configuration, never from the token."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc.jwk import RSAKey

from engine.gateway.worker.tokens import MAX_VERDICTS, TokenError, Tokens, key_set
from tests import gatewaysite as lab


@pytest.fixture(scope="module")
def provider() -> lab.Provider:
    made = lab.Provider()
    made.add("rsa", "RS256")
    made.add("other", "RS256")
    made.add("ec", "ES256")
    made.add("ed", "EdDSA")
    return made


@pytest.fixture
def tokens(provider: lab.Provider, tmp_path: Path) -> Tokens:
    config = lab.configuration(tmp_path, issuers=[lab.issuer(tmp_path / "jwks.json", "RS256", "ES256", "EdDSA")])
    return Tokens(config, {lab.ISSUER: provider.jwks("rsa", "ec", "ed")})


@pytest.mark.parametrize(("kid", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")])
def test_a_good_token_names_its_rule_and_the_second_time_nothing_is_computed(
    kid: str, algorithm: str, tokens: Tokens, provider: lab.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token(kid, algorithm)
    rule, proof = tokens.check(token)
    assert (rule.id, proof) == ("oidc-a", f"{lab.ISSUER}\0{kid}")
    monkeypatch.setattr(tokens, "_verify", lambda *_: pytest.fail("it was checked before"))
    assert tokens.check(token) == (rule, proof)


def _attacks(provider: lab.Provider) -> dict[str, str]:
    good = provider.token("rsa")
    header, claims, signature = good.split(".")
    body = json.loads(__import__("base64").urlsafe_b64decode(claims + "=="))
    public: bytes = cast(RSAKey, provider.keys["rsa"]).as_pem(private=False)
    confused = f"{lab.encoded({'alg': 'HS256', 'kid': 'rsa'})}.{claims}"
    mac = hmac.new(public, confused.encode(), hashlib.sha256).digest()
    import base64

    now = time.time()
    return {
        "none": f"{lab.encoded({'alg': 'none'})}.{claims}.",
        "none with a kid": f"{lab.encoded({'alg': 'none', 'kid': 'rsa'})}.{claims}.{signature}",
        "key confusion": f"{confused}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}",
        "another kid": provider.token("rsa", header={"kid": "ec"}),
        "unknown kid": provider.token("other"),
        "kid that is a path": provider.token("rsa", header={"kid": "../../etc/passwd"}),
        "key of its own": provider.token(
            "other", header={"kid": "own", "jwk": provider.keys["other"].as_dict(private=False)}
        ),
        "changed claims": f"{header}.{lab.encoded(body | {'group': 'a', 'exp': now + 9999})}.{signature}",
        "no signature": f"{header}.{claims}.",
        "expired": provider.token("rsa", exp=int(now) - 31),
        "not yet": provider.token("rsa", nbf=int(now) + 300),
        "issued later": provider.token("rsa", iat=int(now) + 300),
        "no end": provider.token("rsa", exp=None),
        "end that is text": provider.token("rsa", exp="tomorrow"),
        "another audience": provider.token("rsa", aud="other"),
        "no audience": provider.token("rsa", aud=None),
        "another issuer": provider.token("rsa", iss="https://evil.example.org"),
        "no rule": provider.token("rsa", group="z"),
        "an id of another kind": provider.token("rsa", header={"typ": "logout+jwt"}),
        "oversized": provider.token("rsa", filler="x" * 20_000),
        "five parts": f"{good}.a.b",
        "not base64": "a.!.c",
        "empty": "..",
    }


ATTACKS = (
    "none", "none with a kid", "key confusion", "another kid", "unknown kid", "kid that is a path", "key of its own", "changed claims", "no signature",
    "expired", "not yet", "issued later", "no end", "end that is text", "another audience", "no audience", "another issuer", "no rule",
    "an id of another kind", "oversized", "five parts", "not base64", "empty",
)  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_token_that_is_not_good_counts_for_nothing(attack: str, tokens: Tokens, provider: lab.Provider) -> None:
    made = _attacks(provider)
    assert set(made) == set(ATTACKS)
    for _ in range(2):
        with pytest.raises(TokenError):
            tokens.check(made[attack])


def test_a_verdict_ends_with_the_token(tokens: Tokens, provider: lab.Provider) -> None:
    now = time.time()
    token = provider.token("rsa", exp=int(now) + 10)
    tokens.check(token, now)
    tokens.check(token, now + 30)  # within the leeway of 30 s
    with pytest.raises(TokenError, match="expired"):
        tokens.check(token, now + 41)


def test_the_memory_of_verdicts_is_bounded(tokens: Tokens, provider: lab.Provider) -> None:
    rule = tokens.check(provider.token("rsa"))[0]
    for i in range(MAX_VERDICTS):
        tokens._verdicts[i.to_bytes(8, "big")] = (rule, "", 0.0)
    tokens.check(provider.token("ec", "ES256"))
    assert len(tokens._verdicts) == 1


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ({}, "1 to 100 keys"), ({"keys": []}, "1 to 100 keys"), ({"keys": [{"kty": "oct", "k": "AAAA"}]}, "private or symmetric"),
        ({"keys": [{"kty": "EC", "kid": "a", "use": "enc"}]}, "no key"), ({"keys": [{"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"}]}, "cannot be read|shorter"),
    ],
)  # fmt: skip
def test_a_key_set_that_cannot_be_trusted_is_refused(found: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        key_set(found)
