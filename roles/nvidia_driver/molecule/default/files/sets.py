"""DOUBLE of two sets of driver and kernel: packages with the names, dependencies and scripts of Debian's, and almost nothing in them.

    python sets.py OUT VERSION=KERNEL [VERSION=KERNEL...]

OUT/VERSION is an apt repository with one set and Debian's own DKMS, compiler and initramfs-tools. The kernel cannot be booted and its
headers know one way to compile, but apt, dpkg, DKMS, the compiler, depmod, modinfo and the initramfs are real: what takes minutes with
NVIDIA's sources takes seconds with a module of a few lines. The scenario `real` does the same with Debian's own packages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.process import run
from tests.rolecontent import double, packages, work_for

DEBIAN = ["dkms", "gcc-12", "initramfs-tools", "kmod", "make", "python3-apt"]
MODULES = ["nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm", "nvidia-peermem"]

SOURCE = """\
/* DOUBLE of NVIDIA's module: describes itself, and does nothing. */
#define INFO(name, text) static const char name[] __attribute__((section(".modinfo"), used, aligned(1))) = #name "=" text
INFO(license, "NVIDIA");
INFO(version, "{version}");
INFO(vermagic, KERNEL " SMP preempt mod_unload modversions ");
"""

DKMS = """\
PACKAGE_NAME="nvidia-current"
PACKAGE_VERSION="{version}"
MAKE[0]="make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build modules"
CLEAN="true"
AUTOINSTALL="yes"
"""

# Like kbuild, it takes the compiler that the kernel was made with.
HEADERS = """\
modules:
\tset -e; for o in $$(sed -n 's/^obj-m := //p' $(M)/Makefile); do gcc-12 -DKERNEL='"{kernel}"' -c -o $(M)/$${{o%.o}}.ko $(M)/nvidia.c; done
"""

# What Debian's packages of kernels run, and what dh_dkms writes.
KERNEL_POSTINST = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
depmod {kernel}
export DEB_MAINT_PARAMS="$*"
run-parts --report --exit-on-error --arg={kernel} --arg=/boot/vmlinuz-{kernel} /etc/kernel/postinst.d
"""
DKMS_POSTINST = """\
#!/bin/sh
set -e
[ "$1" != configure ] || /usr/lib/dkms/common.postinst nvidia-current {version} "" amd64 "$2"
"""
DKMS_PRERM = """\
#!/bin/sh
set -e
[ -z "$(dkms status -m nvidia-current -v {version})" ] || dkms remove -m nvidia-current -v {version} --all
"""
DAEMON = """\
[Unit]
Description=DOUBLE of the persistence daemon, which opens a GPU
[Service]
Type=exec
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


def kernel(name: str) -> list[dict[str, object]]:
    """A kernel, its headers, and the two names under which Debian offers its newest."""
    version = name.removesuffix("-cloud-amd64").replace("-", ".") + "-1"
    image = {
        f"/boot/vmlinuz-{name}": "DOUBLE of a kernel\n",
        f"/boot/config-{name}": "CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n",
        **{
            f"/lib/modules/{name}/{file}": ""
            for file in ("modules.builtin", "modules.order", "modules.builtin.modinfo")
        },
    }
    build = f"/lib/modules/{name}/build"
    headers = {
        f"{build}/Makefile": HEADERS.format(kernel=name),
        f"{build}/include/config/kernel.release": f"{name}\n",
        f"{build}/include/config/auto.conf": "CONFIG_CC_IS_GCC=y\n",
        f"{build}/.config": "CONFIG_CC_IS_GCC=y\n",
    }
    return [
        _package(f"linux-image-{name}", version, "initramfs-tools, kmod", image, postinst=KERNEL_POSTINST.format(kernel=name)),
        _package(f"linux-headers-{name}", version, f"linux-headers-{name.removesuffix('-cloud-amd64')}-common (= {version}), gcc-12", headers),
        _package(f"linux-headers-{name.removesuffix('-cloud-amd64')}-common", version),
        _package("linux-image-cloud-amd64", version, f"linux-image-{name} (= {version})"),
        _package("linux-headers-cloud-amd64", version, f"linux-headers-{name} (= {version})"),
    ]  # fmt: skip


def driver(version: str) -> list[dict[str, object]]:
    """What Debian makes of one driver, bound together as there: by exact versions."""
    debian, same = f"{version}-1", f"(= {version}-1)"
    source = f"/usr/src/nvidia-current-{version}"
    built = "".join(
        f'BUILT_MODULE_NAME[{n}]="{m}"\nDEST_MODULE_NAME[{n}]="{m.replace("nvidia", "nvidia-current", 1)}"\nDEST_MODULE_LOCATION[{n}]="/updates/dkms"\n'
        for n, m in enumerate(MODULES)
    )
    files = {
        f"{source}/dkms.conf": DKMS.format(version=version) + built,
        f"{source}/Makefile": "".join(f"obj-m := {m}.o\n" for m in MODULES),
        f"{source}/nvidia.c": SOURCE.format(version=version),
    }
    scripts = {"postinst": DKMS_POSTINST.format(version=version), "prerm": DKMS_PRERM.format(version=version)}
    return [
        _package("nvidia-kernel-dkms", debian, f"dkms, nvidia-kernel-support {same}", files, **scripts),
        _package("nvidia-kernel-support", debian, f"nvidia-kernel-common, nvidia-modprobe, nvidia-alternative {same}"),
        _package("nvidia-alternative", debian),
        _package("nvidia-kernel-common", "20220217+3"),
        _package("nvidia-modprobe", f"{version.partition('.')[0]}.161.07-1"),
        _package("libcuda1", debian, f"nvidia-alternative {same}, libnvidia-ptxjitcompiler1 {same}"),
        _package("libnvidia-ptxjitcompiler1", debian),
        _package("libnvidia-ml1", debian, f"nvidia-alternative {same}"),
        _package("nvidia-smi", debian, f"libnvidia-ml1 {same}"),
        _package("nvidia-persistenced", f"{version.partition('.')[0]}.171.04-1", "", {"/lib/systemd/system/nvidia-persistenced.service": DAEMON}),
    ]  # fmt: skip


def _package(
    name: str, version: str, depends: str = "", files: dict[str, str] | None = None, **scripts: str
) -> dict[str, object]:
    control = {"Package": name, "Version": version, **({"Depends": depends} if depends else {})}
    text = {path: {"text": content} for path, content in (files or {}).items()}
    run_by_dpkg = {f"/DEBIAN/{script}": {"text": content, "mode": "0755"} for script, content in scripts.items()}
    return {"control": {**control, "Description": "DOUBLE for tests"}, "files": {**text, **run_by_dpkg}}


def main(out: Path, sets: list[str]) -> None:
    """Debian's packages once, with each set a repository."""
    debian = packages(work_for("debian-12", DEBIAN, out / "work"), out / "debian")
    for asked in sets:
        version, _, name = asked.partition("=")
        place = out / version
        place.mkdir()
        for deb in debian.values():
            os.link(deb, place / deb.name)
        for spec in [*kernel(name), *driver(version)]:
            double(spec, place, out / "work" / version, place)
        index = run(["apt-ftparchive", "packages", "."], cwd=place, package="apt-utils").stdout
        (place / "Packages").write_text(index)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
