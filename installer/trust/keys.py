"""The builder's key directory: keys, the chain of signed roots, and a root that still waits for signatures."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization.json import JSONSerializer

from engine import durable
from engine.errors import InputError, TrustError
from installer import openpgp
from installer.trust import roots, signer
from installer.trust.roots import Change, Signatures
from installer.trust.signer import KeyFile, Secret

ROLES = ("targets", "snapshot", "timestamp")
APT_KEY = "apt-signing-key.asc"
ROOT = "root.json"
PENDING = "root.pending.json"
PRETTY = JSONSerializer(compact=False)


@dataclass(frozen=True)
class KeyInfo:
    """A public key as people compare it. ``here``: this directory holds its private half."""

    role: str
    keyid: str
    type: str
    name: str = ""
    here: bool = False


@dataclass(frozen=True)
class Rotation:
    """A new root: in force when ``published``, else waiting; one entry of ``signatures`` for each rule it must meet."""

    version: int
    published: bool
    signatures: tuple[Signatures, ...]


def no_token(what: str) -> str:
    """The ``Secret`` of callers that use no token."""
    raise InputError(f"a token asks for its {what}", remedy="Run the command at a terminal, or give --pin-file.")


class KeyStore:
    """A directory of keys and the root metadata that says which may do what.

    Args:
        pin: asked when a key lives on a token.
    """

    def __init__(self, directory: Path, pin: Secret = no_token) -> None:
        self.directory = directory
        self._pin = pin

    @property
    def root_path(self) -> Path:
        """The signed root; this file (public) is what other machines pin."""
        return self.directory / ROOT

    @property
    def apt_key(self) -> Path:
        return self.directory / APT_KEY

    def root_bytes(self) -> bytes:
        """The newest signed root.

        Raises:
            InputError: the directory holds no keys.
        """
        try:
            return self.root_path.read_bytes()
        except OSError as error:
            raise InputError(
                "no signing keys here",
                where=str(self.directory),
                remedy="Run `appliance keys init`, or name the directory with --keys.",
            ) from error

    def root(self) -> Root:
        """The root in force, checked against its own threshold."""
        return read_root(self.root_bytes(), str(self.root_path))

    def root_chain(self) -> dict[int, bytes]:
        """Every version of the root, by version."""
        chain = {}
        for path in self.directory.glob("*.root.json"):
            if (number := path.name.split(".")[0]).isdigit():
                chain[int(number)] = path.read_bytes()
        return chain

    def files(self) -> dict[str, KeyFile]:
        """The keys of this directory by key id."""
        found = (signer.read_public(p) for p in sorted(self.directory.glob("*.pub.json")))
        return {f.public.keyid: f for f in found}

    def signers(self, role: str, passphrase: str) -> list[Signer]:
        """The signers of this directory that may sign for a role; none when its keys are elsewhere.

        Raises:
            InputError: the wrong passphrase or a damaged file.
        """
        allowed = self.root().roles[role].keyids
        return [f.open(passphrase, self._pin) for keyid, f in self.files().items() if keyid in allowed and f.usable]

    def create(
        self,
        passphrase: str,
        *,
        root_keys: int,
        threshold: int,
        days: int,
        now: datetime,
        release_keys: Sequence[Key] = (),
        signatures: int = 1,
    ) -> Root:
        """Make all keys and the first root, in a directory beside this one that takes its place when all is there.

        Args:
            release_keys: public keys of those who sign releases elsewhere; without any, this directory gets one itself.
            signatures: how many of the release keys must sign a release.

        Raises:
            InputError: the directory is in use, or a threshold cannot be met.
        """
        if self.directory.exists() and any(self.directory.iterdir()):
            raise InputError(
                "there are signing keys already" if self.root_path.exists() else "the directory is not empty",
                where=str(self.directory),
                remedy="Use another directory; keys are never overwritten.",
            )
        if not 1 <= threshold <= root_keys <= 16:
            raise InputError(
                f"a threshold of {threshold} of {root_keys} root keys is not possible",
                remedy="Use 1 ≤ threshold ≤ keys ≤ 16.",
            )
        making = KeyStore(self.directory.with_name(f".{self.directory.name}.making"), self._pin)
        shutil.rmtree(making.directory, ignore_errors=True)  # of a killed run: nobody used these keys
        making.directory.mkdir(parents=True, mode=0o700)
        try:
            root = self._made(
                making,
                passphrase,
                root_keys,
                {"root": threshold, "targets": signatures},
                _expiry(now, days),
                release_keys,
            )
        except BaseException:
            shutil.rmtree(making.directory, ignore_errors=True)
            raise
        making.directory.rename(self.directory)
        durable.sync_dir(self.directory.parent)
        return root

    def _made(
        self, making: KeyStore, passphrase: str, root_keys: int, thresholds: dict[str, int], expires: datetime, release_keys: Sequence[Key],
    ) -> Root:  # fmt: skip
        """All keys and the first root in the directory ``making``."""
        own = [r for r in ROLES if r != "targets" or not release_keys]
        made: dict[str, list[Key]] = {r: [signer.new_file(making.directory, r, passphrase).public] for r in own}
        made.setdefault("targets", list(release_keys))
        files = [signer.new_file(making.directory, f"root-{i + 1}", passphrase) for i in range(root_keys)]
        made["root"] = [f.public for f in files]
        root = roots.first(made, thresholds, expires)
        openpgp.create(making.directory, "appliance archive", passphrase)
        signed = Metadata(root)
        for file in files:
            signed.sign(file.open(passphrase, self._pin), append=True)
        making._publish(signed)
        return root

    def rotate(
        self, change: Change, passphrase: str, *, days: int, now: datetime, others: Iterable[KeyFile] = ()
    ) -> Rotation:
        """Make the next root and sign it with the root keys that are here or given.

        It comes into force once enough root keys have signed, by the old rule and by its own.

        Args:
            others: root keys on other media.

        Raises:
            InputError: the change is not possible, or an earlier one still waits for signatures.
        """
        if (self.directory / PENDING).exists():
            raise InputError(
                "an earlier change of the root still waits for signatures",
                where=str(self.directory / PENDING),
                remedy="Sign it with `appliance keys sign-root`, or delete that file to give it up.",
            )
        after = roots.following(self.root(), change, _expiry(now, days))
        return self._sign_root(Metadata(after), passphrase, others)

    def sign_root(self, passphrase: str, others: Iterable[KeyFile] = ()) -> Rotation:
        """Add signatures to the root that waits.

        Raises:
            InputError: none waits, or it follows another root than the one in force.
        """
        path = self.directory / PENDING
        try:
            waiting = Metadata[Root].from_bytes(path.read_bytes())
        except OSError as error:
            raise InputError(
                "no root waits for signatures", where=str(self.directory), remedy="`appliance keys rotate` makes one."
            ) from error
        except Exception as error:  # python-tuf raises many types on malformed input
            raise InputError(
                f"not a root: {error}", where=str(path), remedy="Copy it again, or make a new one."
            ) from error
        if waiting.signed.version != self.root().version + 1:
            raise InputError(
                f"the waiting root has version {waiting.signed.version}, {self.root().version + 1} comes next",
                where=str(path),
                remedy="Delete it and make a new one with `appliance keys rotate`.",
            )
        return self._sign_root(waiting, passphrase, others)

    def _sign_root(self, candidate: Metadata[Root], passphrase: str, others: Iterable[KeyFile]) -> Rotation:
        before = self.root()
        may = {*before.roles["root"].keyids, *candidate.signed.roles["root"].keyids}
        known = {**self.files(), **{f.public.keyid: f for f in others}}
        for keyid, file in known.items():
            if keyid in may and file.usable:
                candidate.sign(file.open(passphrase, self._pin), append=True)
        state = tuple(roots.root_signatures(candidate, before))
        if published := all(s.enough for s in state):
            self._publish(candidate)
        else:
            durable.write(self.directory / PENDING, candidate.to_bytes(PRETTY))
        return Rotation(candidate.signed.version, published, state)

    def _publish(self, signed: Metadata[Root]) -> None:
        data = signed.to_bytes(PRETTY)
        durable.write(self.directory / f"{signed.signed.version}.root.json", data)
        durable.write(self.root_path, data)
        (self.directory / PENDING).unlink(missing_ok=True)

    def describe(self) -> tuple[Root, list[KeyInfo]]:
        """The root in force and its public keys."""
        root, files = self.root(), self.files()
        rows = []
        for role, r in sorted(root.roles.items()):
            for keyid in r.keyids:
                file = files.get(keyid)
                rows.append(
                    KeyInfo(
                        role, keyid, root.keys[keyid].keytype, file.name if file else "", bool(file and file.usable)
                    )
                )
        return root, rows


def read_root(data: bytes, where: str) -> Root:
    """Parse a root and check that it is signed by its own threshold.

    Raises:
        TrustError: it is not.
    """
    try:
        metadata = Metadata[Root].from_bytes(data)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except Exception as error:  # python-tuf raises many types on malformed input; none of them may pass
        raise TrustError(
            f"not a signed root: {error}", where=where, remedy="Use the root.json that `appliance keys init` wrote."
        ) from error
    return metadata.signed


def _expiry(now: datetime, days: int) -> datetime:
    return (now + timedelta(days=days)).astimezone(UTC).replace(microsecond=0)
