"""Keys in several hands: who may release, who may change keys, and what a single person can do (nothing)."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.exceptions import InternalError
from tuf.api.metadata import TargetFile

from engine import metadata
from engine.errors import InputError, TrustError
from engine.memory import Memory
from engine.verify import verify
from installer.trust import sign, signer
from installer.trust.keys import KeyStore
from installer.trust.roots import Change
from installer.trust.sign import Label, Signed

PASSPHRASE = "correct horse battery staple"
NOW = datetime.now(UTC).replace(microsecond=0)


def person(tmp_path: Path, name: str) -> signer.KeyFile:
    """A key on a machine of its own."""
    return signer.new_file(tmp_path / name, name, f"{PASSPHRASE} {name}")


@pytest.fixture
def builder(tmp_path: Path) -> KeyStore:
    """A builder that drafts, and two people of three who release."""
    people = [person(tmp_path, name) for name in ("alice", "bob", "carol")]
    store = KeyStore(tmp_path / "builder")
    store.create(
        PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW, release_keys=[p.public for p in people], signatures=2
    )
    return store


@pytest.fixture
def alone(tmp_path: Path) -> KeyStore:
    """A builder that releases alone."""
    store = KeyStore(tmp_path / "alone")
    store.create(PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW)
    return store


def draft(bundle: Path, store: KeyStore) -> Signed:
    (bundle / "content").mkdir(parents=True)
    (bundle / "content/a").write_bytes(b"a")
    targets: dict[str, TargetFile] = sign.targets_of(
        sign.digests_of(bundle, ["content/a"]), lambda p: Label("files", ("gpu",))
    )
    return sign.sign(
        bundle, targets, name="ours", release="ours-1.0.0", keys=store, passphrase=PASSPHRASE, days=30, now=NOW
    )


def signed_by(tmp_path: Path, bundle: Path, name: str, root: bytes) -> Signed:
    """What happens on a person's machine: their key and the root, nothing of the builder's."""
    theirs = tmp_path / name
    (theirs / "root.json").write_bytes(root)
    file = signer.read_public(theirs / f"{name}.pub.json")
    opened = file.open(f"{PASSPHRASE} {name}", lambda what: "")
    return sign.add_signatures(bundle, sign.draft_of(metadata.read(bundle)), KeyStore(theirs), "", [opened])


def test_nobody_releases_alone_and_two_of_three_do(tmp_path: Path, builder: KeyStore) -> None:
    bundle = tmp_path / "ours-1.0.0"
    root = builder.root_bytes()
    first = draft(bundle, builder)
    assert (first.finished, first.signatures.have, first.signatures.need) == (False, (), 2)
    assert not signed_by(tmp_path, bundle, "alice", root).signatures.enough
    with pytest.raises(TrustError, match="not signed yet"):
        verify(bundle, root)
    enough = signed_by(tmp_path, bundle, "bob", root)
    assert enough.signatures.enough
    assert not enough.finished
    assert sign.add_signatures(bundle, sign.draft_of(metadata.read(bundle)), builder, PASSPHRASE, []).finished
    assert verify(bundle, root).good


def test_signatures_made_side_by_side_on_copies_are_brought_together(tmp_path: Path, builder: KeyStore) -> None:
    bundle, root = tmp_path / "ours-1.0.0", builder.root_bytes()
    draft(bundle, builder)
    copies = []
    for name in ("alice", "carol"):
        copy = tmp_path / f"copy-{name}"
        shutil.copytree(bundle, copy)
        signed_by(tmp_path, copy, name, root)
        copies.append(copy / "metadata/targets.json")
    done = sign.add_signatures(bundle, sign.draft_of(metadata.read(bundle)), builder, PASSPHRASE, [], copies)
    assert done.finished
    assert verify(bundle, root).good


def test_the_same_person_twice_is_one_signature(tmp_path: Path, builder: KeyStore) -> None:
    bundle, root = tmp_path / "ours-1.0.0", builder.root_bytes()
    draft(bundle, builder)
    signed_by(tmp_path, bundle, "alice", root)
    assert len(signed_by(tmp_path, bundle, "alice", root).signatures.have) == 1


def test_a_stranger_s_signature_is_refused(tmp_path: Path, builder: KeyStore) -> None:
    bundle = tmp_path / "ours-1.0.0"
    draft(bundle, builder)
    person(tmp_path, "mallory")
    with pytest.raises(InputError, match="may not sign releases"):
        signed_by(tmp_path, bundle, "mallory", builder.root_bytes())


def test_a_signature_for_other_content_is_refused(tmp_path: Path, builder: KeyStore) -> None:
    bundle, other = tmp_path / "ours-1.0.0", tmp_path / "other"
    draft(bundle, builder)
    shutil.copytree(bundle, other)
    raw = json.loads((other / "metadata/targets.json").read_bytes())
    raw["signed"]["targets"]["content/a"]["length"] = 2
    (other / "metadata/targets.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match="not a copy of the same release"):
        sign.add_signatures(
            bundle, sign.draft_of(metadata.read(bundle)), builder, PASSPHRASE, [], [other / "metadata/targets.json"]
        )


def test_a_damaged_signature_is_dropped_and_does_not_count(tmp_path: Path, builder: KeyStore) -> None:
    bundle, root = tmp_path / "ours-1.0.0", builder.root_bytes()
    draft(bundle, builder)
    signed_by(tmp_path, bundle, "alice", root)
    path = bundle / "metadata/targets.json"
    raw = json.loads(path.read_bytes())
    sig = raw["signatures"][0]["sig"]
    raw["signatures"][0]["sig"] = ("0" if sig[0] != "0" else "1") + sig[1:]
    path.write_text(json.dumps(raw))
    assert signed_by(tmp_path, bundle, "bob", root).signatures.have == (
        signer.read_public(tmp_path / "bob/bob.pub.json").public.keyid,
    )


def test_a_key_file_that_breaks_the_library_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: a damaged file can make OpenSSL fail in a way that cryptography calls an internal error."""
    alice = person(tmp_path, "alice")

    def broken(*_: object) -> None:
        raise InternalError("Unknown OpenSSL error", [])

    monkeypatch.setattr(signer, "load_pem_private_key", broken)
    with pytest.raises(InputError, match="cannot open the key"):
        alice.open(f"{PASSPHRASE} alice", lambda what: "")


def test_an_edited_public_key_is_refused(tmp_path: Path) -> None:
    path = person(tmp_path, "alice").path
    data = json.loads(path.read_text())
    data["key"]["keyval"]["public"] = "00" * 32
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="key id is not that of the key"):
        signer.read_public(path)


def test_a_rotated_role_gets_a_new_key_and_the_old_one_counts_no_more(tmp_path: Path, alone: KeyStore) -> None:
    old = tmp_path / "old"
    pinned = alone.root_bytes()
    draft(old, alone)
    fresh = signer.new_file(alone.directory, "targets-2", PASSPHRASE)
    change = Change("targets", (fresh.public,), tuple(alone.root().roles["targets"].keyids))
    assert alone.rotate(change, PASSPHRASE, days=700, now=NOW).published
    new = tmp_path / "new"
    draft(new, alone)
    memory = Memory(tmp_path / "memory", pinned)
    assert memory.learn(alone.root_chain()) == 2
    assert verify(new, memory.newest_root()).good
    with pytest.raises(TrustError, match="not signed by the keys"):
        verify(old, memory.newest_root())


def test_a_new_root_waits_until_enough_root_keys_have_signed(tmp_path: Path, alone: KeyStore) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("root-2", "root-3"):
        for ending in ("pem", "pub.json"):
            (alone.directory / f"{name}.{ending}").rename(media / f"{name}.{ending}")
    waiting = alone.rotate(Change("targets", threshold=1), PASSPHRASE, days=700, now=NOW)
    assert not waiting.published
    assert [(len(s.have), s.need) for s in waiting.signatures] == [(1, 2), (1, 2)]
    assert alone.root().version == 1
    with pytest.raises(InputError, match="still waits"):
        alone.rotate(Change("snapshot", threshold=1), PASSPHRASE, days=700, now=NOW)
    done = alone.sign_root(PASSPHRASE, [signer.read_public(media / "root-3.pub.json")])
    assert done.published
    assert alone.root().version == 2
    assert not (alone.directory / "root.pending.json").exists()


def test_root_keys_are_replaced_when_old_and_new_agree(tmp_path: Path, alone: KeyStore) -> None:
    pinned = alone.root_bytes()
    fresh = signer.new_file(alone.directory, "root-4", PASSPHRASE)
    lost = signer.read_public(alone.directory / "root-1.pub.json").public.keyid
    (alone.directory / "root-1.pem").unlink()
    assert alone.rotate(Change("root", (fresh.public,), (lost,)), PASSPHRASE, days=700, now=NOW).published
    assert Memory(tmp_path / "memory", pinned).learn(alone.root_chain()) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Change("targets", revoke=("f" * 64,)), "not a key of the role"),
        (Change("targets", threshold=2), "not possible"),
        (Change("root", threshold=0), "not possible"),
    ],
)
def test_a_change_that_cannot_work_is_refused_before_anything_is_signed(
    alone: KeyStore, change: Change, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        alone.rotate(change, PASSPHRASE, days=700, now=NOW)
    assert not (alone.directory / "root.pending.json").exists()


def test_keys_are_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed `keys init` leaves nothing that looks like keys, and the next run succeeds."""
    store = KeyStore(tmp_path / "keys")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("installer.openpgp.create", die)
        store.create(PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW)
    assert not store.directory.exists()
    store.create(PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW)
    assert {p.name for p in tmp_path.iterdir()} == {"keys"}


def test_a_directory_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "root-1.pem").write_text("somebody's key")
    with pytest.raises(InputError, match="not empty"):
        KeyStore(tmp_path).create(PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW)
    assert (tmp_path / "root-1.pem").read_text() == "somebody's key"


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a.b"])
def test_a_key_s_name_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a name for a key"):
        signer.new_file(tmp_path, name, PASSPHRASE)
