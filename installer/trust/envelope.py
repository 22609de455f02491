"""Documents that a site signs for others: DSSE envelopes around JSON, with the site's own Ed25519 key."""

from __future__ import annotations

import json
from pathlib import Path

from securesystemslib.dsse import Envelope

from engine import durable, inputfile
from engine.errors import TrustError
from installer.trust import signer
from installer.trust.signer import KeyFile, Secret

KEY = "site"
MAX_DOCUMENT = 64 << 20  # bytes; a receipt of 100 000 contents is 8 MB


def site_key(directory: Path, passphrase: str) -> KeyFile:
    """The site's key, made when there is none."""
    public = directory / f"{KEY}.pub.json"
    return signer.read_public(public) if public.exists() else signer.new_file(directory, KEY, passphrase)


def seal(payload: str, kind: str, out: Path, key: KeyFile, passphrase: str, pin: Secret = lambda what: "") -> None:
    """Write ``out``: the document, its media type and the signature over both.

    Raises:
        InputError: the wrong passphrase.
    """
    envelope = Envelope(payload.encode(), kind, {})
    envelope.sign(key.open(passphrase, pin))
    durable.write(out, json.dumps(envelope.to_dict(), indent=1) + "\n")


def unseal(path: Path, kind: str, site: Path) -> bytes:
    """The document of an envelope that the key in ``site`` (a site.pub.json) has signed.

    Raises:
        InputError: it cannot be read.
        TrustError: it is not signed by that key, or is of another kind.
    """
    key = signer.read_public(site).public
    raw = inputfile.read(path, MAX_DOCUMENT)
    remedy = "Ask the site for it again, and compare the key id of site.pub.json by telephone."
    try:
        envelope = Envelope.from_dict(json.loads(raw))
        envelope.verify([key], 1)
    except Exception as error:  # securesystemslib raises many types on malformed input; none of them may pass
        raise TrustError(f"not signed by this site: {error}", where=str(path), remedy=remedy) from error
    if envelope.payload_type != kind:
        raise TrustError(f"this is {envelope.payload_type}, not {kind}", where=str(path), remedy=remedy)
    payload: bytes = envelope.payload
    return payload
