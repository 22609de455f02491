"""Release keys on a PKCS#11 token: SoftHSM stands where a person's token would be; the code and the protocol are the real ones."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import metadata
from engine.errors import ResourceError
from engine.verify import verify
from installer.trust import sign, signer
from installer.trust.keys import KeyStore
from installer.trust.sign import Label

DRIVER = "/usr/lib/softhsm/libsofthsm2.so"
PASSPHRASE, PIN = "correct horse battery staple", "271828"
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An initialised token with an ECDSA P-256 key of number 2. The driver reads its configuration once a process."""
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    (place / "softhsm2.conf").write_text(f"directories.tokendir = {place / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(place / "softhsm2.conf")
    os.environ["PYKCS11LIB"] = DRIVER
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "release", "--so-pin", "314159", "--pin", PIN],
        check=True,
        capture_output=True,
    )
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    with pkcs11.lib(DRIVER).get_token(token_label="release").open(rw=True, user_pin=PIN) as session:
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
        )
        curve.generate_keypair(store=True, id=b"\x02", label="release")


def test_a_token_and_a_file_release_together(token: None, tmp_path: Path) -> None:
    alice = signer.new_from_token(tmp_path / "alice", "alice", 2, "release", lambda what: PIN)
    bob = signer.new_file(tmp_path / "bob", "bob", PASSPHRASE)
    assert alice.public.keytype == "ecdsa"
    assert [p.name for p in sorted((tmp_path / "alice").iterdir())] == ["alice.pub.json", "alice.uri"]
    store = KeyStore(tmp_path / "builder")
    store.create(
        PASSPHRASE, root_keys=3, threshold=2, days=700, now=NOW, release_keys=[alice.public, bob.public], signatures=2
    )
    bundle = tmp_path / "ours-1.0.0"
    (bundle / "content").mkdir(parents=True)
    (bundle / "content/a").write_bytes(b"a")
    targets = sign.targets_of(sign.digests_of(bundle, ["content/a"]), lambda p: Label("files", ("gpu",)))
    sign.sign(bundle, targets, name="ours", release="ours-1.0.0", keys=store, passphrase=PASSPHRASE, days=30, now=NOW)
    signers = [alice.open("", lambda what: PIN), bob.open(PASSPHRASE, lambda what: "")]
    assert sign.add_signatures(bundle, sign.draft_of(metadata.read(bundle)), store, PASSPHRASE, signers).finished
    assert verify(bundle, store.root_bytes()).good


def test_a_wrong_pin_is_a_sentence(token: None, tmp_path: Path) -> None:
    alice = signer.new_from_token(tmp_path, "alice", 2, "release", lambda what: PIN)
    with pytest.raises(ResourceError, match="the token does not sign: PinIncorrect"):
        alice.open("", lambda what: "000000").sign(b"data")


def test_no_such_token_or_key_is_a_sentence(token: None, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No PKCS#11 token found"):
        signer.new_from_token(tmp_path, "alice", 2, "nobody's", lambda what: PIN)
    with pytest.raises(ResourceError, match="could not find ECDSA key"):
        signer.new_from_token(tmp_path, "alice", 9, "release", lambda what: PIN)
    assert list(tmp_path.iterdir()) == []


def test_without_a_driver_it_says_which_variable_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    with pytest.raises(ResourceError) as refused:
        signer.new_from_token(tmp_path, "alice", 2, None, lambda what: PIN)
    assert "Set PYKCS11LIB" in refused.value.remedy
