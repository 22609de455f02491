"""What stands in certificates, requests and revocation lists. No files, no clock.

P-256 throughout: every TLS library that clients bring accepts it, unlike Ed25519. Names in certificates come from the
inventory, never from the request: a node cannot ask for another node's name. Organisational units tell the kinds apart
(``OU=node``, ``OU=client``, ``OU=depot``), and servers allow by kind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import InputError, TrustError
from engine.rules.names import COMMON_NAME, is_certificate_name

Kind = Literal["node", "client", "depot"]
USAGES = {
    "node": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    "client": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "depot": (ExtendedKeyUsageOID.SERVER_AUTH,),
}
CA_DAYS = 3650
CRL_DAYS = 3650  # nobody can fetch a fresh list inside the gap; a new one is written at every revocation
BACKDATE = timedelta(hours=1)  # clocks inside the gap drift
CURVES = (ec.SECP256R1, ec.SECP384R1)  # what TLS 1.3 libraries have in common, with no size below 256 bits


def utc_now() -> datetime:
    """Now, without fractions: what certificates can hold."""
    return datetime.now(UTC).replace(microsecond=0)


def make_ca(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    """The self-signed certificate of an authority that may certify end entities only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    *,
    kind: Kind,
    name: str,
    names: Sequence[str],
    days: int,
    now: datetime,
) -> x509.Certificate:
    """Certify ``public``; never longer than the authority itself lasts.

    Args:
        name: common name.
        names: DNS names and IP addresses. A client has none; it gets the URI ``appliance:client/NAME``.

    Raises:
        InputError: a name is unfit, or the authority has expired.
    """
    if not COMMON_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a certificate", remedy="Use up to 63 letters, digits, dots, dashes, underscores."
        )
    until = min(now + timedelta(days=days), ca.not_valid_after_utc)
    if until <= now:
        raise InputError(
            f"the certificate authority expired on {ca.not_valid_after_utc:%Y-%m-%d}",
            remedy="See docs/pki.md, 'Replacing the authority'; or fix this machine's clock.",
        )
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    sans = [general_name(n) for n in names]
    if kind == "client":
        sans.append(x509.UniformResourceIdentifier(f"appliance:client/{name}"))
    if not sans:
        raise InputError(f"{name} has no DNS name or address", remedy="Give at least one in the inventory.")
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(ca.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USAGES[kind]), critical=False)
        .add_extension(_authority_key(ca), critical=False)
        .add_extension(x509.SubjectAlternativeName(sans), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def make_crl(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[tuple[int, datetime]],
    now: datetime,
) -> x509.CertificateRevocationList:
    """The list of revoked serials with their times. Nothing ever leaves it, so its length serves as its number."""
    entries = [
        x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build() for serial, when in revoked
    ]
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(ca.subject)
        .last_update(now - BACKDATE)
        .next_update(now + timedelta(days=CRL_DAYS))
        .add_extension(x509.CRLNumber(len(entries) + 1), critical=False)
        .add_extension(_authority_key(ca), critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256())


def key_of_request(pem: bytes, *, where: str) -> ec.EllipticCurvePublicKey:
    """The key that a certificate request is for. Everything else that the request says is ignored.

    Raises:
        TrustError: the request is not signed by that key, or the key is of another type or weaker.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        public, signed = request.public_key(), request.is_signature_valid
    except Exception as error:  # cryptography raises many types on bytes of a stranger
        raise TrustError(
            "not a certificate request", where=where, remedy="Run the install again; it makes a new one."
        ) from error
    if not signed or not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, CURVES):
        raise TrustError(
            "the certificate request is not signed by its own P-256 or P-384 key",
            where=where,
            remedy="Look at who made it on the node.",
        )
    return public


def renewal_reason(
    certificate_pem: bytes,
    request_pem: bytes,
    ca: x509.Certificate,
    revoked: Collection[str],
    *,
    names: Sequence[str],
    renew_before_days: int,
    now: datetime,
    also: Sequence[x509.Certificate] = (),
) -> str:
    """Why a node's certificate must be replaced; empty when it can stay.

    Args:
        revoked: serials in hexadecimal.
        also: authorities beside ``ca`` whose certificates are good for now.
        names: the DNS names and addresses it should carry, in any order.
    """
    if not certificate_pem:
        return "there is none yet"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        issuer = next((a for a in (ca, *also) if a.subject == certificate.issuer), None)
        if issuer is None:
            return "another authority issued it"
        certificate.verify_directly_issued_by(issuer)
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        key = x509.load_pem_x509_csr(request_pem).public_key()
    except InvalidSignature:
        return "another authority issued it"
    except Exception:  # whatever is wrong with the old certificate, the answer is a new one
        return "it cannot be read"
    ends = certificate.not_valid_after_utc
    # One that lasts as long as the authority cannot be made to last longer.
    soon = ends - now <= timedelta(days=renew_before_days) and ends < ca.not_valid_after_utc
    checks = {
        "the node has another key": certificate.public_key() != key,
        "its names changed": set(sans) != {general_name(n) for n in names},
        "it is not a node's": set(usages) != set(USAGES["node"]),
        "it was revoked": f"{certificate.serial_number:x}" in revoked,
        "it is not valid yet": certificate.not_valid_before_utc > now,
        "it expires soon": soon or ends <= now,
    }
    return next((reason for reason, true in checks.items() if true), "")


def general_name(name: str) -> x509.GeneralName:
    """A DNS name or an IP address as certificates hold it.

    Raises:
        InputError: it is neither.
    """
    if not is_certificate_name(name):
        raise InputError(f"{name!r} is neither a DNS name nor an address", remedy="Correct it in the inventory.")
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=crl_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
