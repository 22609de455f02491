"""A machine under Secure Boot: what the product sees of it, and which modules its kernel takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.preflight.facts import Question
from engine.process import run
from installer.site.probescript import script
from tests.guest import image, secureboot
from tests.guest.machine import COMMAND_LINE, Guest

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
SITE, STRANGER = "Site modules", "A stranger"
MODULE = "kernel/drivers/net/dummy.ko"  # any that the kernel's package has and that needs no device


def key(place: Path, name: str) -> tuple[Path, Path]:
    """A key and its certificate as docs/gpu-driver.md makes them, both also in PEM for the tools of the firmware."""
    secret, certificate = place / f"{name}.key", place / f"{name}.der"
    run([
        "openssl", "req", "-new", "-x509", "-newkey", "rsa:3072", "-passout", "env:KBUILD_SIGN_PIN", "-days", "3650", "-subj", f"/CN={name}/",
        "-addext", "extendedKeyUsage=codeSigning", "-keyout", secret, "-outform", "DER", "-out", certificate,
    ])  # fmt: skip
    return secret, certificate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The machine that signs: a site's key, enrolled on the guest, and somebody else's."""
    made = tmp_path_factory.mktemp("signs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KBUILD_SIGN_PIN", "words of a person")
        for name in (SITE, STRANGER):
            key(made, name)
        run(["openssl", "x509", "-inform", "DER", "-in", made / f"{SITE}.der", "-out", made / "site.pem"])
        run(
            [
                "openssl",
                "pkey",
                "-in",
                made / f"{SITE}.key",
                "-passin",
                "env:KBUILD_SIGN_PIN",
                "-out",
                made / "site.key",
            ]
        )
        yield made


@pytest.fixture(scope="module")
def guest(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    used, where = image.ensure(), tmp_path_factory.mktemp("guest")
    firmware = secureboot.make(used, where, place / "site.key", place / "site.pem", f"{COMMAND_LINE} audit=0")
    machine = Guest(used, where, firmware=firmware)
    try:
        with machine.running():
            yield machine
    finally:
        machine.root.unlink()  # a gigabyte


def inserted(guest: Guest, file: Path) -> str:
    """What the guest's kernel says to a module; empty when it took it."""
    command = "cat > /run/module.ko; insmod /run/module.ko 2>&1 && rmmod dummy; true"
    login: list[str | Path] = [
        "ssh",
        "-F",
        "/dev/null",
        "-i",
        guest.image.key,
        "-p",
        str(guest.port),
        *guest.ssh_options,
        "root@127.0.0.1",
        command,
    ]
    done = subprocess.run(login, input=file.read_bytes(), capture_output=True, check=True, timeout=120)
    return done.stdout.decode()


def test_preflight_sees_secure_boot_and_the_key_that_was_enrolled(guest: Guest) -> None:
    said = guest.ssh("python3 -I -B -", stdin=script(Question(), "ours").decode())
    (line,) = [line for line in said.splitlines() if line.startswith("ours facts ")]
    told = json.loads(line.removeprefix("ours facts "))["firmware"]
    assert {k: told[k] for k in ("efi", "secure_boot", "mok_list", "mokutil", "lockdown")} == {
        "efi": True, "secure_boot": True, "mok_list": True, "mokutil": True, "lockdown": "integrity",
    }  # fmt: skip
    assert any(f"CN={SITE}" in subject for subject in told["mok_subjects"])


def test_only_modules_that_the_site_signed_are_taken(guest: Guest, place: Path) -> None:
    module = place / "module.ko"
    release = guest.ssh("uname -r").strip()
    module.write_bytes(
        bytes.fromhex(guest.ssh(f'python3 -c \'print(open("/lib/modules/{release}/{MODULE}", "rb").read().hex())\''))
    )
    assert inserted(guest, module) == ""  # as Debian signed it
    run(
        ["strip", "--strip-debug", module], package="binutils"
    )  # takes the signature away, which stands behind the file's end
    refused = "Key was rejected by service"
    assert refused in inserted(guest, module)
    for name, answer in ((STRANGER, refused), (SITE, "")):
        signed = place / f"{name}.ko"
        signed.write_bytes(module.read_bytes())
        secureboot.sign_file(place / f"{name}.key", place / f"{name}.der", signed)
        assert answer in inserted(guest, signed) and (answer or inserted(guest, signed) == ""), name
    assert "module with unavailable key is rejected" in guest.ssh("dmesg")
