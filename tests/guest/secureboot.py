"""Firmware with Secure Boot on, as shipped: Microsoft's keys, Debian's shim, and a site's own key beside them as machine owner key.

What mokutil and a person at the console do to the firmware's variables is done to their file; everything after is as on a machine.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.process import run
from installer.lab import rootfs
from installer.lab.state import locked
from tests.guest.image import Image

# Unpacked and not installed: the shim's own installation would look for this host's boot loader.
PACKAGES = ("dosfstools", "linux-kbuild-6.1", "mtools", "ovmf", "sbsigntool", "shim-signed", "systemd-boot-efi")
ESP_SIZE = 48 << 20  # bytes
# Where the stub of systemd 252 wants its parts (systemd-stub(7)): names of sections, and addresses that do not overlap.
SECTIONS = {".osrel": 0x20000, ".cmdline": 0x30000, ".linux": 0x2000000}


@dataclass(frozen=True)
class Firmware:
    """QEMU's code and variables, and the system partition that they start from."""

    code: Path
    variables: Path
    esp: Path

    def arguments(self) -> list[str]:
        """For QEMU: with system management mode, so that the guest cannot write its variables past the firmware."""
        return [
            "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={self.code}",
            "-drive", f"if=pflash,unit=1,format=raw,file={self.variables}",
            "-drive", f"file={self.esp},if=none,id=esp,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=esp,bootindex=1",
        ]  # fmt: skip


def tools() -> Path:
    """Debian's packages for it, unpacked; fetched now if they are not in the lab's cache.

    Raises:
        ProcessError: the mirror is missing.
    """
    cache = rootfs.cache_dir()
    made = cache / "guest-secure-boot-1"  # count up when PACKAGES change
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{made.name}.lock"):
        if not made.is_dir():
            temporary = cache / f".{made.name}.{secrets.token_hex(4)}.tmp"
            temporary.mkdir()
            run(["apt-get", "download", "--quiet", *PACKAGES], cwd=temporary, timeout_s=300)
            for package in temporary.glob("*.deb"):
                run(["dpkg-deb", "--extract", package, temporary])
                package.unlink()
            temporary.rename(made)
    return made


def sign_file(key: Path, certificate: Path, module: Path) -> None:
    """Append a signature to a kernel module, with the program that docs/gpu-driver.md names."""
    run([tools() / "usr/lib/linux-kbuild-6.1/scripts/sign-file", "sha256", key, certificate, module])


def make(image: Image, place: Path, key: Path, certificate: Path, command_line: str) -> Firmware:
    """A machine of a site whose key was enrolled, which also signs what the shim starts.

    Args:
        place: an existing directory for its files.
        key, certificate: the site's, in PEM.
    """
    from_packages = tools()
    (place / "cmdline").write_text(command_line)
    (place / "osrel").write_text("ID=guest\nNAME=guest\n")
    parts = {".osrel": place / "osrel", ".cmdline": place / "cmdline", ".linux": image.kernel}
    words = [
        w
        for name, file in parts.items()
        for w in (f"--add-section={name}={file}", f"--change-section-vma={name}={SECTIONS[name]:#x}")
    ]
    run(
        ["objcopy", *words, from_packages / "usr/lib/systemd/boot/efi/linuxx64.efi.stub", place / "kernel.efi"],
        package="binutils",
    )
    run(
        [
            from_packages / "usr/bin/sbsign",
            "--key",
            key,
            "--cert",
            certificate,
            "--output",
            place / "signed.efi",
            place / "kernel.efi",
        ]
    )
    firmware = from_packages / "usr/share/OVMF"
    owner = "605dab50-e046-4300-abb6-3dd810dd8b23"  # the vendor GUID of shim's variables (shim, include/guid.h)
    run([
        Path(sys.executable).with_name("virt-fw-vars"), "--input", firmware / "OVMF_VARS_4M.ms.fd", "--output", place / "variables.fd",
        "--add-mok", owner, certificate,
    ])  # fmt: skip
    esp = place / "esp.img"
    with esp.open("wb") as file:
        file.truncate(ESP_SIZE)
    run([from_packages / "sbin/mkfs.fat", "-F", "32", esp])
    mtools = from_packages / "usr/bin/mtools"
    run([mtools, "-c", "mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"])
    for source, name in (
        (from_packages / "usr/lib/shim/shimx64.efi.signed", "BOOTX64.EFI"),
        (place / "signed.efi", "grubx64.efi"),
    ):
        run([mtools, "-c", "mcopy", "-i", esp, source, f"::/EFI/BOOT/{name}"])
    shutil.copyfile(firmware / "OVMF_CODE_4M.secboot.fd", place / "code.fd")
    return Firmware(place / "code.fd", place / "variables.fd", esp)
