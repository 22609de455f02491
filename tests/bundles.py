"""Signed bundles made in the test: hostile ones are made by changing a good one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Root

from installer.trust import sign
from installer.trust.keys import KeyStore
from installer.trust.sign import Label

PASSPHRASE = "correct horse battery staple"
NOW = datetime.now(UTC).replace(microsecond=0)


class MemoryKeys(KeyStore):
    """A key store without files, for tests that sign hundreds of times."""

    def __init__(
        self, directory: Path, *, threshold: int = 2, root_keys: int = 3, signers: int = 1, signatures: int = 1
    ) -> None:
        super().__init__(directory)
        self.by_role = {
            role: [_new() for _ in range(count)]
            for role, count in (("targets", signers), ("snapshot", 1), ("timestamp", 1))
        }
        self.root_signers = [CryptoSigner(Ed25519PrivateKey.generate()) for _ in range(root_keys)]
        root = Root(version=1, expires=NOW + timedelta(days=700), consistent_snapshot=False)
        for role, keys in self.by_role.items():
            for key in keys:
                root.add_key(key.public_key, role)
        root.roles["targets"].threshold = signatures
        for signer in self.root_signers:
            root.add_key(signer.public_key, "root")
        root.roles["root"].threshold = threshold
        self.roots = {1: self.signed_root(root)}

    def signed_root(self, root: Root, signers: list[CryptoSigner] | None = None) -> bytes:
        metadata = Metadata(root)
        for signer in signers or self.root_signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def root(self) -> Root:
        """The newest root as it is, for tests sign with roots that nobody would accept."""
        return Metadata[Root].from_bytes(self.root_bytes()).signed

    def root_chain(self) -> dict[int, bytes]:
        return self.roots

    def root_bytes(self) -> bytes:
        return self.roots[max(self.roots)]

    def signers(self, role: str, passphrase: str) -> list[Signer]:
        return list(self.by_role[role])

    def next_root(self, change: Callable[[Root], None], signers: list[CryptoSigner] | None = None) -> None:
        """The next root, changed and signed by the root keys (or by those given), whether or not they may."""
        root = self.root()
        root.version += 1
        change(root)
        self.roots[root.version] = self.signed_root(root, signers)

    def replace(self, role: str) -> None:
        """A fresh key for a role; those it had are revoked by a new root."""
        old, self.by_role[role] = self.by_role[role], [_new()]

        def change(root: Root) -> None:
            for signer in old:
                root.revoke_key(signer.public_key.keyid, role)
            root.add_key(self.by_role[role][0].public_key, role)

        self.next_root(change)


def _new() -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.generate())


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk and the root that vouches for it."""

    path: Path
    keys: MemoryKeys

    @property
    def root(self) -> bytes:
        """What a client pinned: the first root."""
        return self.keys.roots[1]


def make(
    where: Path,
    files: dict[str, bytes],
    *,
    keys: MemoryKeys | None = None,
    version: str = "1.0.0",
    now: datetime = NOW,
    days: int = 30,
    name: str = "demo",
    chunk_size: int = sign.CHUNK_SIZE,
) -> Bundle:
    """A signed bundle with these files below content/; the first part of a path is its kind, all are for gpu."""
    path = where / f"{name}-{version}"
    for file, data in files.items():
        target = path / "content" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return signed(where, keys=keys, version=version, now=now, days=days, name=name, chunk_size=chunk_size)


def signed(
    where: Path,
    *,
    keys: MemoryKeys | None = None,
    version: str = "1.0.0",
    now: datetime = NOW,
    days: int = 30,
    name: str = "demo",
    chunk_size: int = sign.CHUNK_SIZE,
) -> Bundle:
    """The same of content that lies below ``where/NAME-VERSION/content`` already, for what does not fit into memory."""
    keys, path = keys or MemoryKeys(where / "keys"), where / f"{name}-{version}"
    (path / "README.txt").write_text("a bundle\n")
    paths = [str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()]
    targets = sign.targets_of(
        sign.digests_of(path, paths, chunk_size),
        lambda p: Label(p.split("/")[1], ("gpu",)) if "/" in p else Label("readme", ()),
        chunk_size,
    )
    sign.sign(path, targets, name=name, release=f"{name}-{version}", keys=keys, passphrase="", days=days, now=now)
    return Bundle(path, keys)
