"""OpenSSF model signatures, verified by the program ``model_signing`` in a process of its own.

It is no import of ours: it brings the whole sigstore stack, which control hosts and nodes must not carry.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

from engine import inputfile
from engine.errors import ResourceError, TrustError
from engine.process import ProcessError, run
from installer.definition import Signature
from installer.lockfile import SIGNATURE

LIMIT = 16 << 20  # bytes of a signature file: one line a file
MAX_KEY = 1 << 20  # bytes of a key or a certificate
TIMEOUT_S = 4 * 3600  # it hashes every byte again


def verify(signature: Signature, model: str, folder: Path, base: Path) -> str:
    """Verify ``folder``, which holds the model's files and the signature file; returns what to record.

    Args:
        base: where relative paths of the definition start.

    Raises:
        TrustError: another key signed, or a file is changed, missing or unsigned.
        InputError: a key or certificate file is not there.
        ResourceError: ``model_signing`` is not installed.
    """
    keys = [base / k for k in ([signature.public_key] if signature.public_key else signature.certificates)]
    remedy = "Correct `signature` in the definition."
    read = {key: inputfile.read(key, MAX_KEY, f"a key of model {model}", remedy) for key in keys}
    kind, option = ("key", "--public_key") if signature.public_key else ("certificate", "--certificate_chain")
    signers = [part for key in keys for part in (option, str(key))]
    try:
        run(
            [_program(), "verify", kind, "--signature", folder / signature.file, *signers, folder],
            inherit=False,
            timeout_s=TIMEOUT_S,
        )
    except ProcessError as error:
        raise TrustError(
            f"model {model}: its signature does not hold: {_reason(error.stderr)}",
            where=signature.file,
            remedy="Get model and signature again from their maker, and the maker's key on another way. "
            "Files that the maker signed must all be taken: see `include` and `appliance model check`.",
        ) from error
    signed = hashlib.sha256((folder / signature.file).read_bytes()).hexdigest()
    by = ", ".join(f"{k.name} sha256:{hashlib.sha256(data).hexdigest()}" for k, data in read.items())
    return f"{SIGNATURE}model-signing verified {signature.file} sha256:{signed} with {kind} {by}"


def _program() -> str:
    """Beside this interpreter, where the extra puts it, else wherever an environment of its own put it on PATH."""
    beside = Path(sys.executable).parent / "model_signing"
    found = str(beside) if beside.is_file() else shutil.which("model_signing")
    if not found:
        raise ResourceError(
            "model_signing is not installed",
            remedy="Install it on the builder: pip install 'appliance[model-signing]', or in an environment of its own on PATH.",
        )
    return found


def _reason(stderr: str) -> str:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    said = " ".join(lines[-12:]).partition("with error: ")
    return re.sub(r"\s+", " ", said[2] or said[0])[:2000] or "it gives no reason"
