"""What every guest boots from: a root file system and a kernel, made once and kept beside the lab's roots."""

from __future__ import annotations

import hashlib
import platform
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.process import run
from installer.lab import rootfs
from installer.lab.disk import mounts_below
from installer.lab.state import locked

RELEASE = "bookworm"
PACKAGES = (
    "cryptsetup-bin", "dbus", "e2fsprogs", "iproute2", "kmod", "libtss2-esys-3.0.2-0", "libtss2-mu0", "libtss2-rc0", "libtss2-tcti-device0",
    "mokutil", "openssh-server", "procps", "python3", "systemd", "systemd-sysv", "tpm2-tools", "udev",
)  # fmt: skip
KERNEL = "linux-image-cloud-amd64"
# For what that one lacks (USB). Disk and file system are modules of it, so it starts with a RAM disk of ours.
WHOLE_KERNEL = "linux-image-amd64"
NEEDED = ("crc32c_generic", "nvme", "ext4")
SIZE = 1400 << 20  # bytes
RECIPE = 6  # count up when the steps below change


@dataclass(frozen=True)
class Image:
    """Files that guests only read. ``key`` logs in as root; ``host_key`` is what the guest answers with."""

    root: Path
    kernel: Path
    key: Path
    host_key: str
    initrd: Path | None = None


def ensure(*extra: str, size: int = SIZE, kernel: str = KERNEL) -> Image:
    """The image, made now if it is not in the lab's cache: about half a minute, then never again.

    Args:
        extra: packages that this guest has besides PACKAGES.
        size: of its root file system, in bytes; sparse.
        kernel: KERNEL or WHOLE_KERNEL.

    Raises:
        ResourceError, ProcessError: a tool, space or the mirror is missing.
    """
    packages = (*PACKAGES, *extra)
    recipe = "\n".join([str(RECIPE), RELEASE, kernel, str(size), rootfs.ONCE_COMPILED.read_text(), *packages])
    cache = rootfs.cache_dir()
    made = cache / f"guest-{RELEASE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{made.name}.lock"):
        if not made.is_dir():
            for stale in cache.glob(f".{made.name}.*.tmp"):
                for point in mounts_below(stale):  # a killed mmdebstrap leaves this host's own /sys in there
                    run(["umount", point])
                shutil.rmtree(stale)
            temporary = cache / f".{made.name}.{secrets.token_hex(4)}.tmp"
            temporary.mkdir()  # apt's own user must reach it while it is made
            _build(temporary, packages, size, kernel)
            temporary.chmod(0o700)
            temporary.rename(made)
    host_key = " ".join((made / "host_key.pub").read_text().split()[:2])
    initrd = made / "initrd"
    return Image(made / "root.img", made / "vmlinuz", made / "key", host_key, initrd if initrd.exists() else None)


def _build(place: Path, packages: tuple[str, ...], size: int, kernel: str) -> None:
    root = place / "root"
    sources = rootfs.sources(rootfs.APT, platform.freedesktop_os_release()["VERSION_CODENAME"], RELEASE)
    run(
        ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}", RELEASE, root, "-"],
        stdin=sources, package="mmdebstrap", timeout_s=900,
    )  # fmt: skip
    _kernel(place, root, kernel)
    _identity(place, root)
    rootfs.compile_once(root)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    run(
        [
            "mkfs.ext4",
            "-q",
            "-F",
            "-L",
            "guest",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-d",
            root,
            place / "root.img",
            f"{size >> 10}k",
        ]
    )
    shutil.rmtree(root)


def _kernel(place: Path, root: Path, kernel: str) -> None:
    """Unpacked by hand: its package would build a large initial RAM disk. NVMe and ext4 are built into the cloud's kernel."""
    told = run(["apt-cache", "depends", kernel]).stdout
    found = re.search(r"Depends: (linux-image-(\S+))", told)
    assert found, f"{kernel} names no kernel: {told}"
    downloads = place / "kernel"
    downloads.mkdir()
    run(["apt-get", "download", "--quiet", found[1]], cwd=downloads, timeout_s=300)
    (package,) = downloads.glob("*.deb")
    run(["dpkg-deb", "--extract", package, downloads / "tree"])
    shutil.copyfile(downloads / f"tree/boot/vmlinuz-{found[2]}", place / "vmlinuz")
    (root / "lib/modules").mkdir(exist_ok=True)
    shutil.copytree(downloads / "tree/lib/modules" / found[2], root / "lib/modules" / found[2])
    run(["chroot", root, "depmod", found[2]])
    if kernel == WHOLE_KERNEL:
        _initrd(place, root, found[2], downloads)
    shutil.rmtree(downloads)


def _initrd(place: Path, root: Path, version: str, scratch: Path) -> None:
    """A RAM disk that knows the guest's disk and nothing else: modules in the order that modprobe names, busybox, one script."""
    run(["apt-get", "download", "--quiet", "busybox-static"], cwd=scratch, timeout_s=300)
    (package,) = scratch.glob("busybox*.deb")
    run(["dpkg-deb", "--extract", package, scratch / "busybox"])
    tree = scratch / "initrd"
    for name in ("bin", "dev", "proc", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(scratch / "busybox/bin/busybox", tree / "bin/busybox")
    # In the image's own tree, so that paths begin with its root.
    told = [run(["chroot", root, "modprobe", f"--set-version={version}", "--show-depends", m]).stdout for m in NEEDED]
    modules = list(dict.fromkeys(re.findall(r"^insmod (\S+)", "".join(told), re.MULTILINE)))
    for module in modules:
        shutil.copyfile(root / module.lstrip("/"), tree / Path(module).name)
    (tree / "init").write_text(
        '#!/bin/busybox sh\nbusybox() { /bin/busybox "$@"; }\nbusybox mount -t devtmpfs devtmpfs /dev\n'
        + "".join(f"busybox insmod /{Path(m).name}\n" for m in modules)
        + "n=0; while [ ! -b /dev/nvme0n1 ] && [ $n -lt 300 ]; do busybox sleep 0.1; n=$((n + 1)); done\n"
        "busybox mount -t ext4 -o rw /dev/nvme0n1 /root && busybox mount --move /dev /root/dev\n"
        "exec /bin/busybox switch_root /root /sbin/init\n"
    )
    (tree / "init").chmod(0o755)
    names = "".join(f"{p.relative_to(tree)}\n" for p in sorted(tree.rglob("*")))
    run(["cpio", "--quiet", "--create", "--format=newc", f"--file={place / 'initrd'}"], cwd=tree, stdin=names, package="cpio")  # fmt: skip


def _identity(place: Path, root: Path) -> None:
    """Keys for a machine that only this host's loopback reaches, its network, and no unit that waits for anybody."""
    for name in ("key", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", place / name])
    for left in root.glob("etc/ssh/ssh_host_*"):
        left.unlink()
    shutil.copyfile(place / "host_key", root / "etc/ssh/ssh_host_ed25519_key")
    (root / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    (root / "root/.ssh/authorized_keys").write_text((place / "key.pub").read_text())
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
    (root / "etc/fstab").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (root / "etc/systemd/network/10-guest.network").write_text(
        "[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\n"
    )
    systemctl = ["systemctl", f"--root={root}"]
    run([*systemctl, "enable", "systemd-networkd.service", "ssh.service"])
    run([*systemctl, "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "getty.target",
         "systemd-networkd-wait-online.service", "e2scrub_reap.service"])  # fmt: skip
