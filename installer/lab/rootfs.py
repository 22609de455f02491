"""The root file system under every node: made once from the builder's own Debian mirror, then only read."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

from engine.durable import disk_errors
from engine.errors import InputError
from engine.process import run
from engine.report import Report
from installer import aptmirror
from installer.lab.state import locked

PACKAGES = (
    "ca-certificates", "dbus", "iproute2", "kmod", "openssh-server", "procps", "python3", "sudo", "systemd", "systemd-sysv",
)  # fmt: skip
RECIPE = 3  # count up when the steps below change, so that old caches are not used
APT = Path("/etc/apt")
ONCE_COMPILED = Path(__file__).with_name("oncecompiled.py")


def cache_dir() -> Path:
    """Where root file systems are kept; APPLIANCE_LAB_CACHE moves it."""
    return Path(os.environ.get("APPLIANCE_LAB_CACHE") or "/var/cache/appliance/lab")


def key(release: str) -> str:
    """The name of the cached root of ``release``: the same recipe gives the same name."""
    recipe = "\n".join([release, str(RECIPE), ONCE_COMPILED.read_text(), *PACKAGES])
    return f"{release}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure(release: str, report: Report) -> Path:
    """The root of ``release``, made now if it is not in the cache. Two callers make it once.

    Raises:
        InputError: the builder's apt has no source of Debian's main component.
        ResourceError, ProcessError: a tool, space or the mirror is missing.
    """
    cache = cache_dir()
    if re.search(r"[,:\\\s]", str(cache)):
        raise InputError("the cache path has a character that mount cannot take", where=str(cache))
    made = cache / key(release)
    root = made / "root"
    if root.is_dir():
        return root
    with disk_errors(cache), locked(cache / f".{made.name}.lock"):
        if root.is_dir():
            return root
        for stale in cache.glob(f".{made.name}.*.tmp"):
            shutil.rmtree(stale)
        task = f"lab: root file system of {release}"
        report.begin(task)
        temporary = cache / f".{made.name}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.mkdir()  # apt's own user must reach it while it is made
            _build(release, temporary / "root")
            temporary.chmod(0o700)  # it holds set-uid programs that nobody here may run
            temporary.rename(made)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        report.end(task)
    return root


def _build(release: str, root: Path) -> None:
    run(
        ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, root, "-"],
        stdin=sources(APT, _codename(), release),
        package="mmdebstrap",
        timeout_s=900,
    )
    for unique in [*root.glob("etc/ssh/ssh_host_*"), root / "var/lib/dbus/machine-id"]:
        unique.unlink(missing_ok=True)  # every node gets its own
    (root / "etc/machine-id").write_text("")
    systemctl = ["systemctl", f"--root={root}"]
    run([*systemctl, "enable", "systemd-networkd.service", "ssh.service"])
    # Unasked apt runs would hold the lock that a role needs; nobody sits at a console.
    run([*systemctl, "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service"])
    compile_once(root)


def compile_once(root: Path) -> None:
    """Let the Python of a node keep what it compiled of Ansible's archives; see oncecompiled.py."""
    packages = root / "usr/lib/python3/dist-packages"
    shutil.copyfile(ONCE_COMPILED, packages / "appliance_lab_once_compiled.py")
    (packages / "appliance_lab.pth").write_text("import appliance_lab_once_compiled\n")
    run(
        [
            "chroot",
            root,
            "python3",
            "-m",
            "compileall",
            "-q",
            f"/{packages.relative_to(root)}/appliance_lab_once_compiled.py",
        ]
    )


def _codename() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", release, re.MULTILINE)
    return found[1] if found else ""


def sources(apt: Path, codename: str, release: str) -> str:
    """The builder's own sources of Debian's main component, turned to ``release``; other sources are left out.

    Args:
        apt: the builder's /etc/apt.
        codename: of the Debian the builder runs.

    Raises:
        InputError: there is none.
    """
    suites = {f"{codename}{pocket}": f"{release}{pocket}" for pocket in ("", "-updates", "-security")}
    chosen = []
    for stanza in aptmirror.stanzas(apt):
        fields = {k.lower(): v.split() for k, v in stanza.items()}
        if (
            "deb" in fields.get("types", [])
            and fields.get("suites")
            and set(fields["suites"]) <= set(suites)
            and "main" in fields.get("components", [])
            and fields.get("enabled", ["yes"]) != ["no"]
        ):
            turned = {**stanza, "Types": "deb", "Suites": " ".join(suites[s] for s in fields["suites"])}
            chosen.append("".join(f"{k}: {v}\n" for k, v in turned.items()))
    if not chosen:
        raise InputError(
            f"apt has no source of Debian {codename or '(unknown)'} main to make a {release} root from",
            where=str(apt),
            remedy="Run on Debian with its archive or a mirror of it in the apt sources.",
        )
    return "\n".join(chosen)
