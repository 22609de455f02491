"""Kernel modules with DKMS, built before the driver that runs is touched.

A driver's package builds its modules while it is being installed: the old ones are gone by then, and a build that fails leaves
a node without any. Here the new package's sources are unpacked and built aside, with DKMS's own trees below ``WORK``. Only when
that worked are the packages replaced (with /etc/dkms/no-autoinstall, which keeps them from building), and what was built is
handed to DKMS, which installs it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.driver import state
from engine.errors import ApplianceError, InputError
from engine.process import ProcessError, run

WORK = Path("/var/lib/appliance/driver")
BUILD_TIMEOUT_S = 3600
LOG_LINES = 12


@dataclass(frozen=True)
class Built:
    """Modules of ``name`` ``version`` for a kernel; ``changed`` is False when they were there already."""

    name: str
    version: str
    kernel: str
    changed: bool
    module: str = ""


def build(package: Path, kernel: str, work: Path = WORK) -> Built:
    """Build the modules of a .deb for a kernel, aside.

    Raises:
        ApplianceError: they cannot be built; nothing that is in use was changed. Carries the last lines of make.log.
    """
    stamp = work / "built.txt"
    told = f"{package.name} {kernel}\n"
    if not stamp.is_file() or stamp.read_text() != told:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o700)
        (work / "dkms").mkdir()  # DKMS makes no tree of its own
        run(["dpkg-deb", "--extract", package, work / "package"])
        name, version = _source(work, package)
        try:
            _dkms(work, "build", name, version, kernel)
        except ProcessError as error:
            raise ApplianceError(
                f"the kernel modules of driver {version} could not be built for {kernel}; the last lines of make.log: "
                f"{_tail(work / 'dkms' / name / version / 'build/make.log', error)}",
                where=str(work / "dkms" / name / version / "build/make.log"),
                remedy="Nothing was replaced: the driver that was there stays usable. Mend what the log names, or take a kernel that this driver supports.",
            ) from error
        durable.write(stamp, told)
        return Built(name, version, kernel, True)
    name, version = _source(work, package)
    return Built(name, version, kernel, False)


def install(kernel: str, work: Path = WORK) -> Built:
    """Hand what was built to DKMS and let it install it; the packages are installed by now.

    Raises:
        InputError: nothing was built for that kernel.
        ApplianceError: DKMS refuses it.
    """
    found = sorted((work / "dkms").glob(f"*/*/{kernel}/*/module"))
    if not found:
        raise InputError(f"no modules were built for {kernel}", where=str(work), remedy="Run the install again.")
    arch = found[0].parent
    name, version = arch.parent.parent.parent.name, arch.parent.parent.name
    ours = Path("/var/lib/dkms") / name / version
    if not (ours / "source").exists():
        run(["dkms", "add", "-m", name, "-v", version])
    if not (ours / kernel / arch.name / "module").is_dir():
        shutil.copytree(arch, ours / kernel / arch.name, symlinks=True)
    run(["dkms", "install", "--force", "-m", name, "-v", version, "-k", kernel], timeout_s=BUILD_TIMEOUT_S)
    module = state.module(kernel)
    if module is None or module.version != version:
        raise ApplianceError(
            f"DKMS installed {name} {version}, but modinfo says {module.version if module else 'nothing'} for {kernel}",
            remedy="Look at `dkms status`, and remove modules that came from elsewhere.",
        )
    shutil.rmtree(work)
    return Built(name, version, kernel, True, module.path)


def _dkms(work: Path, verb: str, name: str, version: str, kernel: str) -> None:
    run(
        ["dkms", verb, "--sourcetree", work / "package/usr/src", "--dkmstree", work / "dkms", "-m", name, "-v", version, "-k", kernel],
        timeout_s=BUILD_TIMEOUT_S,
    )  # fmt: skip


def _source(work: Path, package: Path) -> tuple[str, str]:
    """DKMS's name and version, from the directory of the sources: ``nvidia-current-535.309.01``."""
    found = sorted((work / "package/usr/src").glob("*/dkms.conf"))
    if len(found) != 1:
        raise InputError(
            f"{package.name} holds {len(found)} sources for DKMS, not one",
            where=str(package),
            remedy="Name the package of the driver's kernel modules in gpu_driver.module_package.",
        )
    name, _, version = found[0].parent.name.rpartition("-")
    return name, version


def _tail(log: Path, error: ProcessError) -> str:
    text = log.read_text(errors="replace") if log.is_file() else error.stderr
    return " | ".join(line.strip() for line in text.strip().splitlines()[-LOG_LINES:])[-2000:]
