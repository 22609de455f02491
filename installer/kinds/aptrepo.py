"""The apt repository in a bundle: `Packages`, `Release`, `InRelease` and the key, as text that depends on the lock alone.

Flat, without compressed indexes and without Valid-Until: nodes read it from their own disk, compressed bytes would depend
on the builder's zlib, and a date that runs out would lock a site out of its own packages. Freshness is TUF's task.
Names in `Release` never change between versions, for apt asks a person to confirm when they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

from engine import durable
from engine.process import run
from installer import debfile, openpgp
from installer.lockfile import Artifact

KEY_NAME = "appliance-archive.asc"
OURS = ("filename:", "size:", "md5sum:", "sha1:", "sha256:", "sha512:")  # said by the index, whatever the package says


def stanza(artifact: Artifact, deb: Path) -> str:
    """A package's paragraph in `Packages`: its own control fields, and name, size and hash from the lock."""
    control = run(["dpkg-deb", "--field", deb], inherit=False, package="dpkg", bounds=debfile.BOUNDS).stdout
    lines = [line for line in control.splitlines() if line.strip() and not line.lower().startswith(OURS)]
    filename = artifact.path.removeprefix("debs/")
    return "\n".join([*lines, f"Filename: {filename}", f"Size: {artifact.size}", f"SHA256: {artifact.sha256}", ""])


def release(packages: bytes, arch: str, description: str, epoch: int) -> str:
    """The `Release` text for one index; ``epoch`` in seconds since 1970."""
    digest = hashlib.sha256(packages).hexdigest()
    return (
        "Origin: appliance\nLabel: appliance\nSuite: appliance\nCodename: appliance\n"
        f"Date: {formatdate(epoch, usegmt=True)}\n"
        f"Architectures: {arch}\nDescription: {description}\n"
        f"SHA256:\n {digest} {len(packages)} Packages\n"
    )


def write(
    directory: Path, stanzas: Sequence[str], *, arch: str, description: str, epoch: int, key: tuple[Path, Path]
) -> None:
    """Write the index files and the public key into ``directory``, beside ``pool/``.

    Args:
        key: armored secret key and the file with its passphrase.
    """
    secret, passphrase = key
    packages = "\n".join(stanzas).encode()
    text = release(packages, arch, description, epoch).encode()
    durable.write(directory / "Packages", packages)
    durable.write(directory / "Release", text)
    durable.write(directory / "InRelease", openpgp.clearsign(secret, passphrase, text, epoch))
    durable.write(directory / KEY_NAME, openpgp.public(secret))
