"""Who asks: an API key, an access token, the client certificate that nginx checked, or several, as the tenant's configuration says.

Only these headers are looked at, and nginx sets or deletes each of them:

- ``Authorization: Bearer`` and ``x-api-key`` are the client's own.
- ``x-appliance-client-verify`` and ``x-appliance-client-certificate`` are nginx's ``$ssl_client_verify`` and ``$ssl_client_escaped_cert``.

There is no fallback: what is presented must be good, and all of it must name the same tenant.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

from engine.gateway.keys import FORM, digest
from engine.gateway.worker.policy import Policy, Subject
from engine.gateway.worker.refusal import Refusal
from engine.gateway.worker.tokens import TokenError

LOOKED_AT = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"x-appliance-client-verify",
        b"x-appliance-client-certificate",
        b"x-request-id",
        b"content-type",
    }
)
MAX_NAMES = 20_000


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that are looked at.

    Raises:
        Refusal: one of them came twice, so two programs could each believe another one.
    """
    found: dict[str, str] = {}
    for name, value in raw:
        if name in LOOKED_AT:
            key = name.decode()
            if key in found:
                raise Refusal(400, "duplicate_header", f"The header {key} must not be sent twice.")
            found[key] = value.decode("latin-1")
    return found


class Identities:
    """Finds subjects; remembers the names in certificates, which do not change."""

    def __init__(self) -> None:
        self._names: dict[bytes, tuple[str, ...]] = {}

    def find(self, headers: Mapping[str, str], policy: Policy) -> Subject:
        """The subject of a request.

        Raises:
            Refusal: nothing was presented, something is not good, or they do not go together.
        """
        now = time.time()
        presented = [*self._certificate(headers, policy), *_bearer(headers, policy, now)]
        if not presented:
            raise _unknown()
        if len({s.tenant for s in presented}) != 1:
            raise Refusal(401, "credentials_disagree", "The credentials of this request belong to different tenants.")
        kinds = {s.kind for s in presented}
        if not any(kinds.issuperset(c) for c in policy.tenants[presented[0].tenant].accept):
            raise Refusal(401, "credential_missing", "This tenant needs another credential, or several together.")
        return presented[-1]  # a key or token says more than the certificate that it came with

    def _certificate(self, headers: Mapping[str, str], policy: Policy) -> list[Subject]:
        if headers.get("x-appliance-client-verify") != "SUCCESS" or not policy.certificates:
            return []
        escaped = headers.get("x-appliance-client-certificate", "").encode()
        mark = hashlib.sha256(escaped).digest()
        if (names := self._names.get(mark)) is None:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            names = self._names[mark] = _names(escaped)
        found = [policy.certificates[n] for n in names if n in policy.certificates]
        if len({s.credential for s in found}) > 1:
            raise Refusal(401, "certificate_ambiguous", "The client certificate has names of several credentials.")
        return found[:1]


def _names(escaped: bytes) -> tuple[str, ...]:
    """Subject alternative names of a certificate as the configuration writes them."""
    from cryptography import x509  # noqa: PLC0415  # only where certificates identify

    try:
        certificate = x509.load_pem_x509_certificate(unquote_to_bytes(escaped))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [f"DNS:{n}" for n in names.get_values_for_type(x509.DNSName)]
        found += [f"URI:{n}" for n in names.get_values_for_type(x509.UniformResourceIdentifier)]
        found += [f"EMAIL:{n}" for n in names.get_values_for_type(x509.RFC822Name)]
    except (ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(found)


def _bearer(headers: Mapping[str, str], policy: Policy, now: float) -> list[Subject]:
    given, key = headers.get("authorization"), headers.get("x-api-key")
    if given is not None and key is not None:
        raise Refusal(400, "duplicate_credential", "Send either Authorization or x-api-key, not both.")
    if given is not None:
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer":
            raise _unknown()
    if not key:
        return []
    if FORM.fullmatch(key):
        found = policy.keys.get(digest(key))
        if found is None:
            raise _unknown()
        if not found.begins <= now < found.until:
            raise Refusal(
                401,
                "expired_api_key",
                "This API key has expired or is not valid yet.",
                headers={"www-authenticate": "Bearer"},
            )
        return [found]
    try:
        rule, proof = policy.tokens.check(key, now)
    except TokenError:
        raise _unknown() from None
    known = policy.rules[rule.id]
    return [
        Subject("token", known.credential, proof, known.tenant, known.project, known.cost_centre, known.highest_class)
    ]


def _unknown() -> Refusal:
    return Refusal(
        401,
        "invalid_api_key",
        "A valid API key, access token or client certificate is required.",
        headers={"www-authenticate": "Bearer"},
    )
