"""The apt key with the real gpg: what verifies, what never leaks, what is never left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from engine.errors import InputError
from installer import openpgp

PASSPHRASE = "correct horse battery staple"
EPOCH = 2_000_000_000  # after the key is made, whatever the clock says


def with_passphrase(directory: Path, text: str = PASSPHRASE) -> Path:
    path = directory / "passphrase"
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openpgp.create(tmp_path_factory.mktemp("key"), "Test key", PASSPHRASE)


def gpgv(key: Path, signed: bytes, tmp_path: Path) -> subprocess.CompletedProcess[bytes]:
    """Verify with gpg's own verifier; returns the signed text on standard output."""
    ring, document = tmp_path / "ring.gpg", tmp_path / "signed"
    armored = openpgp.public(key)
    ring.write_bytes(subprocess.run(["gpg", "--dearmor"], input=armored, capture_output=True, check=True).stdout)
    document.write_bytes(signed)
    argv = ["gpgv", "--status-fd", "2", "--keyring", str(ring), "--output", "-", str(document)]
    return subprocess.run(argv, capture_output=True, check=False)


def left_of(homes: set[str]) -> set[str]:
    """Which of these homes of gpg are there still, or have a process (a zombie has no command line)."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return {h for h in homes if Path(h).exists() or any(h in line for line in lines)}


def left_at_last(homes: set[str]) -> set[str]:
    """What is left once it had ten seconds to go away."""
    deadline = time.monotonic() + 60
    while (left := left_of(homes)) and time.monotonic() < deadline:
        os.sched_yield()
    return left


def test_the_key_file_is_private_armored_and_locked(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("-----BEGIN PGP PRIVATE KEY BLOCK-----")
    packets = subprocess.run(["gpg", "--list-packets", key], capture_output=True, text=True, check=False).stdout
    assert "protect IV" in packets or "iter+salt S2K" in packets


def test_the_public_half_holds_no_secret(key: Path) -> None:
    armored = openpgp.public(key)
    assert armored.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")
    packets = subprocess.run(["gpg", "--list-packets"], input=armored, capture_output=True, check=True).stdout
    assert b"secret" not in packets
    assert b"digest algo 10" in packets  # SHA-512 binds name and key; SHA-1 is refused by newer apt


def test_a_signature_verifies_and_a_changed_text_does_not(key: Path, tmp_path: Path) -> None:
    text = b"Origin: test\n- a dash\n"
    signed = openpgp.clearsign(key, with_passphrase(tmp_path), text, EPOCH)
    good = gpgv(key, signed, tmp_path)
    assert b"GOODSIG" in good.stderr
    assert good.stdout.rstrip(b"\n") == text.rstrip(b"\n")
    bad = gpgv(key, signed.replace(b"Origin: test", b"Origin: evil"), tmp_path)
    assert bad.returncode != 0
    assert b"BADSIG" in bad.stderr


@pytest.mark.parametrize("epoch", [EPOCH, 0])
def test_the_same_text_and_time_give_the_same_bytes(epoch: int, key: Path, tmp_path: Path) -> None:
    passphrase = with_passphrase(tmp_path)
    one, two = (openpgp.clearsign(key, passphrase, b"text\n", epoch) for _ in range(2))
    assert one == two
    assert b"VALIDSIG" in gpgv(key, one, tmp_path).stderr  # also when the time is before the key was made


def test_a_wrong_passphrase_is_told(key: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="passphrase does not open"):
        openpgp.clearsign(key, with_passphrase(tmp_path, "wrong"), b"text\n", EPOCH)


def test_a_passphrase_file_that_others_can_read_is_refused(key: Path, tmp_path: Path) -> None:
    passphrase = with_passphrase(tmp_path)
    passphrase.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        openpgp.clearsign(key, passphrase, b"text\n", EPOCH)


def test_a_file_without_a_secret_key_is_refused(key: Path, tmp_path: Path) -> None:
    public = tmp_path / "public.asc"
    public.write_bytes(openpgp.public(key))
    for file in (public, with_passphrase(tmp_path)):
        with pytest.raises(InputError, match="exactly one OpenPGP secret key"):
            openpgp.public(file)
    with pytest.raises(InputError, match=r"absent\.asc"):
        openpgp.public(tmp_path / "absent.asc")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / openpgp.KEY_FILE).write_text("precious")
    with pytest.raises(InputError, match="already"):
        openpgp.create(tmp_path, "Test", PASSPHRASE)
    assert (tmp_path / openpgp.KEY_FILE).read_text() == "precious"
    with pytest.raises(InputError, match="one line"):
        openpgp.create(tmp_path / "other", "Test", "")


def test_the_passphrase_is_in_no_command_line_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("gpg")
    assert real
    log, wrapper = tmp_path / "log", tmp_path / "bin/gpg"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{log}"\nenv >> "{log}"\nexec "{real}" "$@"\n')
    wrapper.chmod(0o755)
    long = tmp_path / ("long" * 30)  # no socket fits below it
    long.mkdir()
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(long))
    key = openpgp.create(tmp_path / "key", "-v Test", PASSPHRASE)
    openpgp.clearsign(key, with_passphrase(tmp_path), b"text\n", EPOCH)
    with pytest.raises(InputError):
        openpgp.clearsign(key, with_passphrase(tmp_path, "wrong"), b"text\n", EPOCH)
    said = log.read_text()
    assert "--quick-generate-key" in said
    assert "--clearsign" in said
    assert PASSPHRASE not in said
    homes = set(re.findall(r"--homedir (\S+)", said))
    assert len(homes) == 3
    assert left_at_last(homes) == set()
    assert list(long.iterdir()) == []
