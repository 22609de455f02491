"""The node's own key: made on the node, never leaves it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine import durable
from engine.errors import ApplianceError, TrustError

Part = TypeVar("Part", x509.Certificate, x509.CertificateRevocationList)


def ensure_key(path: Path) -> bool:
    """Make a P-256 key at ``path`` (0600) unless there is one; returns whether it was made."""
    if path.exists():
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    durable.write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    return True


def request(path: Path, name: str) -> str:
    """A certificate request for the key at ``path``, as PEM. The signer decides about names; this one is a label.

    Raises:
        ApplianceError: the key cannot be read, or users other than its owner and group can read or change it.
    """
    signed = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(_load(path), hashes.SHA256())
    )
    return signed.public_bytes(Encoding.PEM).decode()


def check(directory: Path, names: Sequence[str], *, now: datetime) -> None:
    """What lies in ``directory`` works together: node.key, node.crt, ca.crt and crl.pem.

    The key belongs to the certificate, the authority issued certificate and list, the certificate is valid now, may serve
    and may call, carries exactly ``names`` (DNS names and addresses) and is not on the list.

    Raises:
        TrustError: one of these does not hold; the message says which.
        ApplianceError: a file cannot be read, or the key can be read by others.
    """
    key = _load(directory / "node.key")
    try:
        certificate = x509.load_pem_x509_certificate(_read(directory / "node.crt"))
        # Two of each while one authority takes over from another.
        ca = _of(certificate, x509.load_pem_x509_certificates(_read(directory / "ca.crt")), lambda c: c.subject)
        end = b"-----END X509 CRL-----\n"
        lists = [x509.load_pem_x509_crl(part + end) for part in _read(directory / "crl.pem").split(end)[:-1]]
        revoked = _of(certificate, lists, lambda c: c.issuer)
    except ValueError as error:
        raise TrustError(
            f"a certificate or the revocation list is damaged: {error}",
            where=str(directory),
            remedy="Run the install again; it writes them anew.",
        ) from error
    try:
        certificate.verify_directly_issued_by(ca)
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issued = True
    except Exception:  # cryptography raises many types on a bad certificate; none of them makes it good
        usages, sans, issued = set(), x509.SubjectAlternativeName([]), False
    ca_key = ca.public_key()
    wrong = {
        "the certificate was not issued by this authority": not issued,
        "the certificate belongs to another key": certificate.public_key() != key.public_key(),
        "the certificate is not valid yet": now < certificate.not_valid_before_utc,
        "the certificate has expired": now >= certificate.not_valid_after_utc,
        "the certificate is not for a node": usages != {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH},
        "the certificate carries other names": {str(n.value) for n in sans} != {_plain(n) for n in names},
        "the revocation list is not this authority's": not isinstance(ca_key, ec.EllipticCurvePublicKey)
        or not revoked.is_signature_valid(ca_key),
        "the certificate is revoked": revoked.get_revoked_certificate_by_serial_number(certificate.serial_number)
        is not None,
    }  # fmt: skip
    for what, true in wrong.items():
        if true:
            raise TrustError(
                what, where=str(directory / "node.crt"), remedy="Run the install again; it issues a new certificate."
            )


def main(argv: list[str]) -> int:
    """`appliance-engine keys csr|check`: prints one JSON document."""
    parser = argparse.ArgumentParser(prog="appliance-engine keys")
    verbs = parser.add_subparsers(dest="verb", required=True)
    csr = verbs.add_parser("csr", help="make the key if there is none, and print a certificate request")
    csr.add_argument("--key", type=Path, required=True)
    csr.add_argument("--name", required=True)
    csr.add_argument("--dry-run", action="store_true", help="make no key; without one print no request")
    verify = verbs.add_parser("check", help="check key, certificate, authority and revocation list against each other")
    verify.add_argument("--dir", type=Path, required=True)
    verify.add_argument(
        "--name", action="append", default=[], help="DNS name or address it must carry; repeat for each"
    )
    options = parser.parse_args(argv)
    if options.verb == "check":
        check(options.dir, options.name, now=datetime.now(UTC))
        print(json.dumps({"good": True}))  # noqa: T201
        return 0
    os.umask(0o077)
    made = not options.key.exists() if options.dry_run else ensure_key(options.key)
    text = request(options.key, options.name) if options.key.exists() else ""
    print(json.dumps({"csr": text, "changed": made}))  # noqa: T201
    return 0


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), None)
        open_to_others = path.stat().st_mode & 0o027
    except (ValueError, TypeError) as error:
        raise ApplianceError(
            "not the node's key",
            where=str(path),
            remedy="Remove the file and run the install again; it makes a new key.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ApplianceError(
            "the node's key is not P-256", where=str(path), remedy="Remove the file and run the install again."
        )
    if open_to_others:  # whoever could read it may have it: a chmod would not make it secret again
        raise TrustError(
            "others could read or change the node's key",
            where=str(path),
            remedy="Remove the file, revoke the node's certificate and run the install again.",
        )
    return key


def _of(certificate: x509.Certificate, among: Sequence[Part], name: Callable[[Part], x509.Name]) -> Part:
    """The authority's certificate or list that is the issuer's by name; the first where none is, which then fails the check.

    Raises:
        ValueError: there is none at all.
    """
    if not among:
        raise ValueError("it is empty")
    return next((one for one in among if name(one) == certificate.issuer), among[0])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ApplianceError(
            f"cannot read it: {error.strerror}", where=str(path), remedy="Run the install again, as root."
        ) from error


def _plain(name: str) -> str:
    """Addresses in the one form that certificates compare equal in."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name
