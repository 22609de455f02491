"""Signed bundles made in the test: hostile ones are made by changing a good one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from installer.trust import sign
from installer.trust.keys import KeyStore
from installer.trust.sign import Label

PASSPHRASE = "correct horse battery staple"
NOW = datetime.now(UTC).replace(microsecond=0)


class MemoryKeys(KeyStore):
    """A key store without files, for tests that sign hundreds of times."""

    def __init__(self, directory: Path, *, threshold: int = 2, root_keys: int = 3) -> None:
        super().__init__(directory)
        self.signers = {
            role: CryptoSigner(Ed25519PrivateKey.generate()) for role in ("targets", "snapshot", "timestamp")
        }
        self.root_signers = [CryptoSigner(Ed25519PrivateKey.generate()) for _ in range(root_keys)]
        root = Root(version=1, expires=NOW + timedelta(days=700), consistent_snapshot=False)
        for role, signer in self.signers.items():
            root.add_key(signer.public_key, role)
        for signer in self.root_signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        self.roots = {1: self.sign_root(root)}

    def sign_root(self, root: Root, signers: list[CryptoSigner] | None = None) -> bytes:
        metadata = Metadata(root)
        for signer in signers or self.root_signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def root_chain(self) -> dict[int, bytes]:
        return self.roots

    def root_bytes(self) -> bytes:
        return self.roots[1]

    def signer(self, role: str, passphrase: str) -> CryptoSigner:
        return self.signers[role]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk and the root that vouches for it."""

    path: Path
    keys: MemoryKeys

    @property
    def root(self) -> bytes:
        return self.keys.root_bytes()


def make(
    where: Path,
    files: dict[str, bytes],
    *,
    keys: MemoryKeys | None = None,
    version: str = "1.0.0",
    now: datetime = NOW,
    days: int = 30,
    name: str = "demo",
) -> Bundle:
    """A signed bundle with these files below content/; the first part of a path is its kind, all are for gpu."""
    keys = keys or MemoryKeys(where / "keys")
    path = where / f"{name}-{version}"
    for file, data in files.items():
        target = path / "content" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (path / "README.txt").write_text("a bundle\n")
    paths = [str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()]
    targets = sign.targets_of(path, paths, lambda p: Label(p.split("/")[1] if "/" in p else "readme", ("gpu",)))
    sign.sign(path, targets, name=name, release=f"{name}-{version}", keys=keys, passphrase="", days=days, now=now)
    return Bundle(path, keys)
