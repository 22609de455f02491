"""The starting kit: what checks the first bundle on a machine that has nothing of ours yet.

The verifier must not come out of the bundle it verifies. The kit is a small directory that travels on its own medium:
the verifier's wheels (pure Python, so that any interpreter of the distributions runs them), the root of trust,
a script, and a list of hashes signed with an SSH key. `ssh-keygen -Y verify` and `sha256sum`, which every distribution has,
are enough to trust it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from engine import durable
from engine.copying import read_target
from engine.errors import InputError
from engine.process import run
from engine.verify import open_bundle
from installer.trust import signer
from installer.trust.keys import KeyStore
from installer.trust.secret import nameless

KEY = "starting-kit"
IDENTITY = "appliance"
NAMESPACE = "appliance-starting-kit"  # a signature made for the kit counts for nothing else, and the other way round
SUMS = "SHA256SUMS"
NEEDED = ("appliance_engine", "securesystemslib", "tuf", "urllib3")
BELOW = "content/installer/node/"
MAX_WHEEL = 8 << 20  # bytes; the largest is half a megabyte

SCRIPT = """#!/bin/sh
# Check a bundle. First check this kit itself, as README.txt says: a script cannot vouch for itself.
# usage: ./verify BUNDLE [--json]; ./verify --help says more
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
if ! "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed (Debian 12 and 13 and Ubuntu 24.04 have it). Name another with PYTHON=…" >&2
  exit 6
fi
# -I: nothing of the environment or the current directory is imported.
exec "$python" -I -B -c '
import pathlib, sys, tempfile, zipfile
here = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory(prefix="appliance-kit-") as place:
    for wheel in sorted((here / "wheels").glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(place)
    sys.path.insert(0, place)
    sys.argv = ["./verify", "verify", "--root", str(here / "root.json"), *sys.argv[2:]]
    from engine.cli import main
    main()
' "$here" "$@"
"""

README = """The starting kit of appliance: checks the first bundle on a machine that has nothing of appliance yet.

You need this directory, and one line of text that reached you on another way (paper, telephone, a ticket):

    {line}

Its fingerprint, for comparing by telephone: {fingerprint}

1. Copy this directory to the machine's own disk (media can answer twice in two ways), and go there.
2. Write the line above, as YOU received it, into a file:              allowed_signers
3. Check the list of hashes, then the files against the list:

    ssh-keygen -Y verify -f allowed_signers -I {identity} -n {namespace} -s SHA256SUMS.sig < SHA256SUMS
    sha256sum --strict -c SHA256SUMS

   The first must say "Good", the second OK for every file. Otherwise stop, and tell who sent you the kit.
4. Check the bundle:

    ./verify /media/drive/NAME-VERSION

   It names every file that is missing, extra, changed or unsigned, and ends with 0 only when there is none.

root.json in this kit is the root of trust. Once the kit is checked, it may be pinned: it is the --root of the first import.
The verifier is pure Python and needs version 3.11 or newer; nothing is installed. Only where a bundle brings newer roots, they stay in
~/.local/state/appliance/roots, so that a key which they revoke is refused the next time.
"""


@dataclass(frozen=True)
class Kit:
    """A kit that was made. ``line`` goes into allowed_signers on the other side and must travel on another way."""

    path: Path
    line: str
    fingerprint: str
    size: int


def make(bundle: Path, out: Path, keys: KeyStore, passphrase: str) -> Kit:
    """Write the kit into ``out``, with the verifier that is in ``bundle``.

    Raises:
        InputError: ``out`` exists, the root has keys that pure Python cannot check, or the passphrase is not that of the signing keys.
        TrustError: the bundle is not signed by these keys, or its verifier is not as signed.
    """
    if out.exists():
        raise InputError("it is there already", where=str(out), remedy="Name a directory that does not exist yet.")
    root = keys.root()
    others = sorted({k.keytype for k in root.keys.values()} - {"ed25519"})
    if others:
        raise InputError(
            f"the root has keys of type {', '.join(others)}, which the kit's pure Python cannot check",
            where=str(keys.root_path),
            remedy="Install the verifier with cryptography from the distribution instead; see docs/trust.md.",
        )
    wheels = _wheels(bundle, keys.root_bytes())  # first: nothing is made for a bundle that cannot give a kit
    key = _key(keys, passphrase)
    line = f'{IDENTITY} namespaces="{NAMESPACE}" {_openssh(key)}'
    staging = out.with_name(f".{out.name}.making")
    shutil.rmtree(staging, ignore_errors=True)
    files = {
        "root.json": keys.root_bytes(),
        "verify": SCRIPT.encode(),
        "README.txt": README.format(
            line=line, fingerprint=_fingerprint(key), identity=IDENTITY, namespace=NAMESPACE
        ).encode(),
        **{f"wheels/{name}": data for name, data in wheels.items()},
    }
    with durable.disk_errors(out):
        try:
            _write(staging, files, key)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        staging.rename(out)
        durable.sync_dir(out.parent)
    return Kit(out, line, _fingerprint(key), sum(len(d) for d in files.values()))


def _write(staging: Path, files: dict[str, bytes], key: Ed25519PrivateKey) -> None:
    """All files, the list of their hashes and its signature. ssh-keygen signs a copy: it writes beside what it signs, and
    says less than we do when that fails.
    """
    for name, data in files.items():
        durable.write(staging / name, data, mode=0o755 if name == "verify" else 0o644)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    durable.write(staging / SUMS, sums)
    with _openssh_file(key) as secret, tempfile.TemporaryDirectory(prefix="appliance-kit-") as scratch:
        copy = Path(scratch) / SUMS
        copy.write_text(sums)
        run(
            ["ssh-keygen", "-q", "-Y", "sign", "-f", secret, "-n", NAMESPACE, copy],
            inherit=False,
            package="openssh-client",
        )
        durable.write(staging / f"{SUMS}.sig", Path(f"{copy}.sig").read_bytes())


def _key(keys: KeyStore, passphrase: str) -> Ed25519PrivateKey:
    """The kit's key, made at the first kit with the passphrase that the builder's keys have."""
    pem = keys.directory / f"{KEY}.pem"
    if not pem.exists():
        roles = keys.root().roles
        here = [f for i, f in keys.files().items() if i in (*roles["snapshot"].keyids, *roles["timestamp"].keyids)]
        for file in here:
            if file.pem.exists() and not file.uri.exists():
                file.open(passphrase, lambda what: "")  # a mistyped passphrase must not become that of a new key
        signer.new_file(keys.directory, KEY, passphrase)
    file = signer.read_public(keys.directory / f"{KEY}.pub.json")
    file.open(passphrase, lambda what: "")  # the sentences about wrong passphrases and damaged files are there
    key = load_pem_private_key(pem.read_bytes(), passphrase.encode())
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("the key is not Ed25519", where=str(pem), remedy="Use the key that `appliance kit` made.")
    return key


def _wheels(bundle: Path, root: bytes) -> dict[str, bytes]:
    """The verifier's wheels by file name, each compared with its signature."""
    trusted = open_bundle(bundle, root)
    found = {}
    for target in trusted.targets.values():
        name = target.path.removeprefix(BELOW)
        if target.path.startswith(BELOW) and name.endswith("-none-any.whl") and name.split("-")[0].lower() in NEEDED:
            found[name] = read_target(bundle, target, MAX_WHEEL)
    have = {name.split("-")[0].lower() for name in found}
    if have != set(NEEDED):
        raise InputError(
            f"the bundle does not hold {', '.join(sorted(set(NEEDED) - have))}",
            where=str(bundle),
            remedy="Take a bundle that was built from this source tree.",
        )
    return found


def _openssh(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _fingerprint(key: Ed25519PrivateKey) -> str:
    with tempfile.TemporaryDirectory(prefix="appliance-kit-") as scratch:
        path = Path(scratch) / "key.pub"
        path.write_text(_openssh(key) + "\n")
        return run(["ssh-keygen", "-l", "-f", path], inherit=False, package="openssh-client").stdout.split()[1]


def _openssh_file(key: Ed25519PrivateKey) -> AbstractContextManager[Path]:
    """The private key as ssh-keygen reads it; it never gets a name."""
    return nameless(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
