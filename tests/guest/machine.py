"""One guest as a process: its disks, its software TPM, its start, its end."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ApplianceError, NodeError
from engine.process import run
from tests.guest.image import Image
from tests.guest.secureboot import Firmware

# Westmere has AES and nothing that TCG emulates slowly; with this and without mitigations a boot costs a fifth less than with max.
READY_S = 180.0  # a boot takes about 15 s on an idle core
COMMAND_LINE = "root=/dev/nvme0n1 rw console=ttyS0 quiet systemd.show_status=0 net.ifnames=0 mitigations=off"


@dataclass
class Guest:
    """A machine whose files lie in ``place``: ``root.img`` is its own copy, so it may be stopped and started again.

    A start sees what ``usb`` has then. With ``firmware`` that decides what is started, else the kernel is started directly. ``disks`` are raw images: /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_guest_2 in the guest, _3 and so on; the root is _1.
    """

    image: Image
    place: Path
    disks: Sequence[Path] = ()
    memory_mib: int = 1024
    port: int = 0
    audit: bool = False  # whether the kernel keeps records; without, a boot is a little shorter
    firmware: Firmware | None = None
    usb: Sequence[str] = ()  # what is plugged in, by QEMU's names of devices

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        self.root = self.place / "root.img"
        if not self.root.exists():
            run(["cp", "--sparse=always", "--reflink=auto", self.image.root, self.root])
        with socket.socket() as probe:  # free a moment ago; the guest's SSH server is forwarded to it
            probe.bind(("127.0.0.1", 0))
            self.port = self.port or probe.getsockname()[1]
        self.known_hosts = self.place / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.image.host_key}\n")
        self.console = self.place / "console.log"

    @property
    def ssh_options(self) -> list[str]:
        options = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "ConnectTimeout=10",
            "LogLevel=ERROR",
        ]
        options += [
            f"UserKnownHostsFile={self.known_hosts}",
            "ControlMaster=auto",
            f"ControlPath={self.place}/ssh",
            "ControlPersist=60",
        ]
        return [part for option in options for part in ("-o", option)]

    def ssh(self, command: str, *, ok: tuple[int, ...] = (0,), stdin: str | None = None, timeout_s: float = 120) -> str:
        """Run a shell command in the guest as root; returns what it wrote."""
        return run(self._argv(command), ok=ok, stdin=stdin, timeout_s=timeout_s).stdout

    def send(self, file: Path, command: str) -> None:
        """Give the bytes of a file of this host to a shell command in the guest.

        Raises:
            subprocess.CalledProcessError: the command failed.
        """
        with file.open("rb") as source:
            subprocess.run(list(map(str, self._argv(command))), stdin=source, check=True, timeout=600)

    def _argv(self, command: str) -> list[str | Path]:
        return ["ssh", "-F", "/dev/null", "-i", self.image.key, "-p", str(self.port), *self.ssh_options, "root@127.0.0.1", command]  # fmt: skip

    @contextlib.contextmanager
    def running(self, tpm: Path | None = None) -> Iterator[Guest]:
        """Boot, with the TPM whose state lies in the directory ``tpm``; on leaving the machine is shut down.

        Raises:
            NodeError: it ended, or did not answer in time; its console is in the message.
        """
        with contextlib.ExitStack() as stack:
            chip = stack.enter_context(software_tpm(tpm)) if tpm else []
            argv = [
                "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Westmere", "-smp", "2", "-m", str(self.memory_mib), "-nodefaults",
                "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{self.console}",
                *(self.firmware.arguments() if self.firmware else ["-kernel", self.image.kernel, "-append", f"{COMMAND_LINE} audit={int(self.audit)}"]),
                *(["-initrd", self.image.initrd] if self.image.initrd else []),
                *(["-device", "qemu-xhci,id=usb"] if self.usb else []), *(word for name in self.usb for word in ("-device", f"{name},bus=usb.0")),
                "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
                "-device", "virtio-rng-pci", *chip, "-device", "nvme,id=nvme,serial=guest",
                # Namespaces of one controller: two controllers are found in any order, and the kernel knows its root by number only.
                *(word for number, file in enumerate([self.root, *self.disks], 1) for word in _disk(number, file)),
            ]  # fmt: skip
            log = stack.enter_context((self.place / "qemu.log").open("ab"))
            machine = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                self._wait(machine)
                yield self
            finally:
                self._end(machine)

    def _wait(self, machine: subprocess.Popen[bytes]) -> None:
        deadline, answer = time.monotonic() + READY_S, ""
        while time.monotonic() < deadline and machine.poll() is None:
            with contextlib.suppress(ApplianceError):
                answer = self.ssh("systemctl is-active ssh.service", timeout_s=30).strip()
                return
            time.sleep(0.3)
        tail = (
            self.console.read_text(errors="replace")[-1500:]
            + (self.place / "qemu.log").read_text(errors="replace")[-800:]
        )
        raise NodeError(
            f"the guest did not come up ({answer or machine.poll()}); it said: {tail}", where=str(self.place)
        )

    def _end(self, machine: subprocess.Popen[bytes]) -> None:
        """Shut down in order, so that its disks are as a machine leaves them; cut the power after half a minute."""
        with contextlib.suppress(ApplianceError):
            self.ssh("systemctl --no-block poweroff", timeout_s=20)
            subprocess.run(["ssh", "-F", "/dev/null", *self.ssh_options, "-p", str(self.port), "-O", "exit", "root@127.0.0.1"],
                           capture_output=True, check=False)  # fmt: skip
        try:
            machine.wait(40)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()


def _disk(number: int, file: Path) -> list[str]:
    # unsafe: the host need not flush what is thrown away after the test.
    return ["-drive", f"file={file},if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap",
            "-device", f"nvme-ns,bus=nvme,drive=disk{number},nsid={number}"]  # fmt: skip


@contextlib.contextmanager
def software_tpm(state: Path) -> Iterator[list[str]]:
    """A TPM 2.0 whose seeds and registers lie in ``state``; another directory is another chip. Yields QEMU's arguments."""
    state.mkdir(parents=True, exist_ok=True)
    sock = state / "sock"
    sock.unlink(missing_ok=True)
    argv = [
        "swtpm",
        "socket",
        "--tpm2",
        "--tpmstate",
        f"dir={state}",
        "--ctrl",
        f"type=unixio,path={sock}",
        "--flags",
        "startup-clear",
    ]
    if shutil.which("swtpm") is None:
        raise ApplianceError("swtpm is not installed", remedy="Install it: apt-get install swtpm")
    chip = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not sock.exists() and time.monotonic() < deadline and chip.poll() is None:
            time.sleep(0.02)
        yield [
            "-chardev",
            f"socket,id=tpm,path={sock}",
            "-tpmdev",
            "emulator,id=tpm,chardev=tpm",
            "-device",
            "tpm-tis,tpmdev=tpm",
        ]
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            chip.wait(3)  # it ends with the machine
        chip.kill()
        chip.wait()
