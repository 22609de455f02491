"""The encrypted model store on a machine with a kernel and a TPM of its own: the role's real steps, then everything that must not open it."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.process import ProcessError
from tests.guest import converge as roles
from tests.guest import image
from tests.guest.machine import Guest

MARKER = "the weights of the model, in the clear"
DEVICE = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_guest_2"
UNLOCK = r"systemd-cryptsetup@model\\x2dstore.service"  # as the guest's shell takes it
MOUNT = "var-lib-appliance-store.mount"
# The role's own steps for the device; its timer is the Molecule scenario's, on a node where a task takes a tenth of the time.
STEPS = ("device", "configure")
SITE = {
    "appliance_model_store_device": DEVICE,
    "appliance_model_store_encryption": "tpm2",
    "appliance_model_store_reserve": "1M",
    "appliance_model_store_calendar": "",
}
PASSPHRASE = "a person's own words"
# What changes when a person opens the store instead of the TPM; everything else was as it should be.
BY_HAND = {
    "Bind a key to the TPM, or add the passphrase", "Say how the device is opened at boot", "Wait for whoever opens it as long as it takes",
    "Copy the header", "Bring it to the control host", "Remove the copy", "Note that this header was taken away",
}  # fmt: skip

Converge = Callable[..., str]


@pytest.fixture
def converge(tmp_path: Path) -> Converge:
    """Runs the role on a guest and returns everything Ansible said, at a verbosity that prints what it was given."""

    def run(guest: Guest, *steps: str, **site: str) -> str:
        variables = {**SITE, **site, "appliance_model_store_keys": str(tmp_path / "keys")}
        return roles.converge(guest, tmp_path, "model_store", variables, steps=steps, verbose=True)

    return run


def holds(image_file: Path, text: str) -> bool:
    with image_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return raw.find(text.encode()) >= 0


def look(guest: Guest, about: str, command: str) -> None:
    """For who reads along (pytest -s): what the guest says at this point; nothing is judged by it."""
    print(f"\n# {about}\nguest# {command}\n{guest.ssh(f'({command}) 2>&1', ok=tuple(range(256))).rstrip()}", flush=True)


def settled(guest: Guest) -> str:
    """How the store ended up after a boot: active or failed."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        answer = guest.ssh(f"systemctl is-active {MOUNT} {UNLOCK}", ok=(0, 3)).split()
        if answer[0] == "active" or "failed" in answer:
            return answer[0]
        time.sleep(1)
    raise AssertionError(f"the store is still {answer}")


@pytest.mark.nodes
@pytest.mark.slow
def test_an_encrypted_store_opens_for_its_own_machine_as_it_was_and_for_the_recovery_key(
    tmp_path: Path, converge: Converge
) -> None:
    disk = tmp_path / "store.img"
    with disk.open("wb") as file:
        file.truncate(192 << 20)
    guest = Guest(image.ensure(), tmp_path / "guest", [disk])

    with guest.running(tmp_path / "tpm"):
        said = converge(guest, *STEPS)
        (recovery,) = (tmp_path / "keys").glob("*.recovery")
        key = recovery.read_text().strip()
        assert {"Encrypt the empty device", "Make the file system"} <= roles.changed(said)
        assert len(key) == 64
        assert recovery.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "keys/guest.luks-header").stat().st_mode & 0o777 == 0o600
        assert key not in said
        assert key not in guest.ssh("journalctl --no-pager --output=cat; cat /etc/crypttab")
        print(said[said.rindex("PLAY RECAP") :])
        look(
            guest,
            "converged",
            f"lsblk -o NAME,FSTYPE,LABEL,MOUNTPOINTS; cat /etc/crypttab; systemd-cryptenroll {DEVICE}",
        )
        guest.ssh(f"yes '{MARKER}' | head -c 4M > /var/lib/appliance/blobs/weights && sync")
        # The control: what the disk must not show can be found where it is open.
        assert int(guest.ssh(f"grep --count --text '{MARKER}' /dev/mapper/model-store")) > 1000
    assert not holds(disk, MARKER)
    assert not holds(disk, key)

    with guest.running(tmp_path / "tpm"):
        assert settled(guest) == "active", "the machine's own TPM opens it at boot"
        assert MARKER in guest.ssh("head -c 100 /var/lib/appliance/blobs/weights")
        look(
            guest,
            "booted again, its own TPM",
            f"findmnt -o SOURCE,OPTIONS /var/lib/appliance/store; systemctl is-active {MOUNT}",
        )
        guest.ssh(f"systemctl stop {MOUNT} {UNLOCK} && test ! -e /dev/mapper/model-store")
        guest.ssh(f"systemctl start {UNLOCK} && systemctl stop {UNLOCK}")  # it would open again, but for the next line
        guest.ssh("tpm2_pcrextend 7:sha256=" + "ab" * 32)
        with pytest.raises(ProcessError):
            guest.ssh(f"systemctl start {UNLOCK} || test -e /dev/mapper/model-store")
        look(guest, "PCR 7 extended", f"tpm2_pcrread sha256:7; journalctl -u {UNLOCK} -n 4 -o cat; ls /dev/mapper")

    with guest.running(tmp_path / "other-tpm"):
        assert settled(guest) != "active", "another machine's TPM does not open it"
        guest.ssh("test ! -e /dev/mapper/model-store && test ! -e /var/lib/appliance/blobs/weights")
        look(
            guest,
            "another TPM",
            f"systemctl is-system-running; journalctl -u {UNLOCK} -n 4 -o cat; ls /dev/mapper /var/lib/appliance/blobs/",
        )
        opens = f"cryptsetup open --key-file=- {DEVICE} model-store"
        with pytest.raises(ProcessError):
            guest.ssh(opens, stdin="c" * 64)
        guest.ssh(opens, stdin=key)
        guest.ssh(f"systemctl start {MOUNT}")
        assert MARKER in guest.ssh("head -c 100 /var/lib/appliance/blobs/weights")
        look(guest, "opened with the recovery key", "head -c 80 /var/lib/appliance/blobs/weights")
        words = tmp_path / "passphrase"
        words.write_text(f"{PASSPHRASE}\n")
        said = converge(
            guest,
            "device",
            appliance_model_store_encryption="passphrase",
            appliance_model_store_passphrase_file=str(words),
        )
        assert roles.changed(said) == BY_HAND
        assert PASSPHRASE not in said
        look(guest, "opened by a passphrase from now on", f"systemd-cryptenroll {DEVICE}; cat /etc/crypttab")
        assert "tpm2" not in guest.ssh(f"systemd-cryptenroll {DEVICE}")
        for secret in (PASSPHRASE, key):
            guest.ssh(f"cryptsetup open --test-passphrase --key-file=- {DEVICE}", stdin=secret)
    assert not holds(disk, MARKER)
