"""The node's own key: made on the node, never leaves it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from engine import durable
from engine.errors import ApplianceError


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
        ApplianceError: the key cannot be read.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ApplianceError(
            "cannot read the node's key",
            where=str(path),
            remedy="Remove the file and run the install again; it makes a new key.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ApplianceError(
            "the node's key is not P-256", where=str(path), remedy="Remove the file and run the install again."
        )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


def check(directory: Path) -> None:
    """The certificate in ``directory`` belongs to its key and was issued by its CA.

    Raises:
        ApplianceError: it does not or was not.
    """
    try:
        certificate = x509.load_pem_x509_certificate((directory / "node.crt").read_bytes())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes()))
        key = load_pem_private_key((directory / "node.key").read_bytes(), None)
        same = key.public_key() == certificate.public_key()
    except Exception as error:  # cryptography raises many types on a bad certificate
        raise ApplianceError(
            f"the node's certificate is not usable: {error}", where=str(directory), remedy="Run the install again."
        ) from error
    if not same:
        raise ApplianceError(
            "the node's certificate belongs to another key", where=str(directory), remedy="Run the install again."
        )


def main(argv: list[str]) -> int:
    """`appliance-engine keys csr|check`: prints one JSON document."""
    parser = argparse.ArgumentParser(prog="appliance-engine keys")
    verbs = parser.add_subparsers(dest="verb", required=True)
    csr = verbs.add_parser("csr", help="make the key if there is none, and print a certificate request")
    csr.add_argument("--key", type=Path, required=True)
    csr.add_argument("--name", required=True)
    csr.add_argument("--dry-run", action="store_true", help="make no key; without one print no request")
    verify = verbs.add_parser("check", help="check key, certificate and CA against each other")
    verify.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args(argv)
    if options.verb == "check":
        check(options.dir)
        print(json.dumps({"good": True}))  # noqa: T201
        return 0
    os.umask(0o077)
    made = not options.key.exists() if options.dry_run else ensure_key(options.key)
    text = request(options.key, options.name) if options.key.exists() else ""
    print(json.dumps({"csr": text, "changed": made}))  # noqa: T201
    return 0
