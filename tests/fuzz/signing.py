"""Fuzz targets of what signers, builders and sites hand to each other: public keys, drafts, roots, envelopes, volumes."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

from tuf.api.metadata import Metadata, Root

from engine.errors import ApplianceError, TrustError
from engine.memory import Memory
from engine.trust import Trusted, listing
from engine.verify import open_bundle
from installer.carry import parity, receipt, volumes
from installer.carry.volumes import Split
from installer.trust import envelope, sign, signer
from tests.bundles import NOW, MemoryKeys
from tests.fuzz.targets import FuzzTarget, good, scratch

PASSPHRASE = "correct horse battery staple"


@functools.cache
def _key() -> signer.KeyFile:
    return signer.new_file(scratch() / "keys", "site", PASSPHRASE)


def _file(data: bytes) -> Path:
    path = scratch() / "input"
    path.write_bytes(data)
    return path


def public_key(data: bytes) -> None:
    """A NAME.pub.json: accepted only when its id is that of the key in it."""
    with contextlib.suppress(ApplianceError):
        read = signer.read_public(_file(data))
        assert len(read.public.keyid) <= 1 << 14


def private_key(data: bytes) -> None:
    """A NAME.pem that is not what `keys new` wrote."""
    place = scratch() / "pem"
    place.mkdir(exist_ok=True)
    public = place / "site.pub.json"
    public.write_bytes(_key().path.read_bytes())
    (place / "site.pem").write_bytes(data)
    with contextlib.suppress(ApplianceError):
        opened = signer.read_public(public).open(PASSPHRASE, lambda what: "")
        assert opened.public_key.keyid == _key().public.keyid


def draft(data: bytes) -> None:
    """A targets.json that a signer is asked to sign."""
    with contextlib.suppress(ApplianceError):
        read = sign.read_copy(_file(data))
        listing(read.signed, 1)


@functools.cache
def _memory_keys() -> MemoryKeys:
    keys = MemoryKeys(scratch() / "memory-keys")
    keys.next_root(lambda root: None)
    return keys


def next_root(data: bytes) -> None:
    """Bytes offered as the next root: followed only when they say what the real one says."""
    keys = _memory_keys()
    with tempfile.TemporaryDirectory(dir=scratch()) as place:
        memory = Memory(Path(place), keys.roots[1])
        try:
            memory.learn({2: data})
        except TrustError:
            assert max(memory.roots()) == 1
            return
        # What is signed is the meaning: python-tuf reads a null spec_version as its own and signs that.
        ours, theirs = (Metadata[Root].from_bytes(r).signed for r in (keys.roots[2], data))
        assert ours == theirs


def site_receipt(data: bytes) -> None:
    """An envelope from a site: read only when the site's key signed it."""
    with contextlib.suppress(ApplianceError):
        assert receipt.read(_file(data), _key().path) == _receipt()


def _receipt() -> receipt.Receipt:
    return receipt.Receipt(made=NOW, root_version=1, releases=(), contents=())


def _receipt_seed() -> list[bytes]:
    path = scratch() / "receipt.json"
    envelope.seal(_receipt().model_dump_json(by_alias=True), receipt.TYPE, path, _key(), PASSPHRASE)
    return [path.read_bytes()]


@functools.cache
def _split() -> Split:
    trusted = good_trusted()
    made = volumes.layout(good().path, trusted, size=1 << 24, out=scratch() / "volumes")
    volumes.write(good().path, trusted, made, 1, NOW)
    parity.write(made, trusted, [scratch() / "volumes"], NOW)
    return made


@functools.cache
def _parity_volume() -> Path:
    return next(_split().media[0].parent.glob("*.parity-1-of-1"))


def good_trusted() -> Trusted:
    return open_bundle(good().path, good().root)


def volume_index(data: bytes) -> None:
    """A volume's unsigned index: it may lie about its siblings, and decides nothing."""
    with tempfile.TemporaryDirectory(dir=scratch()) as place:
        volume, out = Path(place) / "volume", Path(place) / "out"
        shutil.copytree(_split().media[0], volume)
        (volume / volumes.INDEX).write_bytes(data)
        with contextlib.suppress(ApplianceError):
            found = volumes.check(volume, good_trusted())
            # What the index hides is missing, and the label is not that of what it claims.
            assert all(f.problem == "missing" or (f.problem, f.path) == ("unsigned", volumes.LABEL) for f in found)
        shutil.rmtree(volume)
        shutil.copytree(_parity_volume(), volume)
        (volume / volumes.INDEX).write_bytes(data)
        out.mkdir()
        with contextlib.suppress(ApplianceError):
            for made in parity.recover([volume], good_trusted(), out):
                # A set whose index leaves files out is made again without them, and found to lack them.
                assert all(f.problem == "missing" for f in volumes.check(made, good_trusted()))
        assert set(Path(place).iterdir()) == {volume, out}


TARGETS: dict[str, FuzzTarget] = {
    "public_key": FuzzTarget(public_key, lambda: [_key().path.read_bytes()]),
    "private_key": FuzzTarget(private_key, lambda: [_key().pem.read_bytes()]),
    "draft": FuzzTarget(draft, lambda: [(good().path / "metadata/targets.json").read_bytes()]),
    "next_root": FuzzTarget(next_root, lambda: [_memory_keys().roots[2]]),
    "site_receipt": FuzzTarget(site_receipt, _receipt_seed),
    "volume_index": FuzzTarget(
        volume_index, lambda: [(v / volumes.INDEX).read_bytes() for v in (_split().media[0], _parity_volume())]
    ),
}
