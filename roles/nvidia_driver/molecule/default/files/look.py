"""Runs on the node: everything that the checks of this scenario read, in one task. `look.py KERNEL...` prints JSON."""

import json
import pathlib
import subprocess
import sys

PACKAGES = ["*nvidia*", "libcuda1", "linux-image-6*", "linux-headers-6*"]
# What apt would do with everything, with the pins alone, the holds alone, or neither.
UPGRADES = {
    "loose": ["--ignore-hold", "-o", "Dir::Etc::preferencesparts=/dev/null", "dist-upgrade"],
    "pinned": ["--ignore-hold", "dist-upgrade"],
    "holding": ["-o", "Dir::Etc::preferencesparts=/dev/null", "dist-upgrade"],
    "clean": ["autoremove"],
    "other_kernel": ["install", "linux-image-cloud-amd64"],
}


def ask(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def text(path: str) -> str:
    file = pathlib.Path(path)
    return file.read_text(errors="replace") if file.is_file() else ""


def module(kernel: str) -> "dict[str, str]":
    told = ask("modinfo", "-k", kernel, "nvidia-current").stdout
    return {key: value.strip() for key, _, value in (line.partition(":") for line in told.splitlines())}


versions = ask("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package} ${Version}\n", *PACKAGES).stdout
simulated = {name: ask("apt-get", "--simulate", *argv) for name, argv in UPGRADES.items()}
print(json.dumps({
    "packages": [line for line in versions.splitlines() if not line.startswith("un ")],
    "half": ask("dpkg", "--audit").stdout,
    "modules": {kernel: module(kernel) for kernel in sys.argv[1:]},
    "initramfs": {kernel: ask("lsinitramfs", f"/boot/initrd.img-{kernel}").stdout for kernel in sys.argv[1:]},
    "due": text("/var/lib/appliance/reboot-due"),
    "left": [p for p in ("/etc/dkms/no-autoinstall", "/var/lib/appliance/driver") if pathlib.Path(p).exists()],
    "boot": text("/proc/sys/kernel/random/boot_id"),
    "loaded": text("/proc/driver/nvidia/version"),
    "apt": text("/var/log/apt/term.log").split("Log started:"),
    "persistenced": ask("systemctl", "is-active", "nvidia-persistenced.service").stdout.strip(),
    "would": {name: done.stdout.splitlines() for name, done in simulated.items()},
    "refused": [name for name, done in simulated.items() if done.returncode],
}))  # fmt: skip
