"""What the kernel says: settings, modules, command line, audit rules, AppArmor."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.baseline.outcome import Outcome, fail, not_applicable, of_faults, passed
from engine.process import run

PROC_SYS = Path("/proc/sys")
TIMEOUT_S = 30.0


def sysctl(want: Mapping[str, Any]) -> Outcome:
    """``want``: key to value, or to a list of values that do, the first being the one the role sets.

    A key that the kernel lacks, or that this node may not write (a container), cannot be held against the node: it is
    named. When all keys are like that, the control does not apply.
    """
    faults, good, foreign = [], [], []
    for key, value in want.items():
        accepted = [str(v) for v in (value if isinstance(value, list) else [value])]
        path = PROC_SYS / key.replace(".", "/")
        try:
            found = " ".join(path.read_text().split())
        except OSError:
            foreign.append(f"{key} is not there")
            continue
        if found in accepted:
            good.append(f"{key}={found}")
        elif not os.access(path, os.W_OK):
            foreign.append(f"{key}={found} belongs to the host's kernel")
        else:
            faults.append(f"{key}={found} (wanted {' or '.join(accepted)})")
    if faults:
        return fail("; ".join(faults), "")
    if good:
        return passed("; ".join(good + foreign))
    return not_applicable("; ".join(foreign))


def modules(want: Mapping[str, Any]) -> Outcome:
    """``want.modules``: names that neither are loaded nor can be asked for."""
    loaded = {line.split()[0].replace("-", "_") for line in _text("/proc/modules").splitlines() if line}
    faults = []
    for name in want["modules"]:
        if name.replace("-", "_") in loaded:
            faults.append(f"{name} is loaded")
            continue
        said = run(
            ["modprobe", "--dry-run", "--verbose", name], ok=range(256), timeout_s=TIMEOUT_S, package="kmod"
        ).stdout
        if not re.search(r"^install /(usr/)?bin/(false|true)\s*$", said, re.MULTILINE):
            faults.append(f"{name} may be loaded")
    return of_faults(faults, f"{len(want['modules'])} modules refused", "modprobe refuses them")


def cmdline(want: Mapping[str, Any]) -> Outcome:
    """``want.words``: words of the kernel's command line."""
    found = _text("/proc/cmdline").split()
    missing = [word for word in want["words"] if word not in found]
    return fail(f"without {' '.join(missing)}", " ".join(want["words"])) if missing else passed(" ".join(want["words"]))


def audit(want: Mapping[str, Any]) -> Outcome:
    """``want.rules``: rules as auditctl takes them, which must be loaded; files that are not there are not watched.

    A container cannot load rules: the kernel takes them from the first PID namespace alone.
    """
    container = run(["systemd-detect-virt", "--container"], ok=(0, 1), timeout_s=TIMEOUT_S).stdout.strip()
    if container not in ("", "none"):
        return not_applicable(f"{container}: the kernel takes audit rules from its first PID namespace alone")
    listed = run(["auditctl", "-l"], timeout_s=TIMEOUT_S, package="auditd").stdout
    loaded = {canonical(line) for line in listed.splitlines() if line.startswith("-")}
    missing = [rule for rule in want["rules"] if canonical(rule) not in loaded and rule.startswith("-")]
    return of_faults([f"not loaded: {rule}" for rule in missing], f"{len(want['rules'])} rules loaded")


def audit_locked(_: Mapping[str, Any]) -> Outcome:
    """The rules cannot be changed before the next start."""
    container = run(["systemd-detect-virt", "--container"], ok=(0, 1), timeout_s=TIMEOUT_S).stdout.strip()
    if container not in ("", "none"):
        return not_applicable(f"{container}: the kernel takes audit rules from its first PID namespace alone")
    said = run(["auditctl", "-s"], timeout_s=TIMEOUT_S, package="auditd").stdout
    return (
        passed("locked") if re.search(r"^enabled 2$", said, re.MULTILINE) else fail("rules can be changed", "enabled 2")
    )


def canonical(rule: str) -> str:
    """One spelling of a rule: auditctl lists a watch on a directory with a slash or without, ``-k`` as ``-F key=``, and no call as all."""
    words = rule.replace("-F key=", "-k ").replace("!=unset", "!=-1").replace(" -S all ", " ").split()
    if words[0] == "-w":
        words[1] = words[1].rstrip("/")
    calls = [",".join(sorted(",".join(words[i + 1] for i, w in enumerate(words) if w == "-S").split(",")))]
    rest = [w for i, w in enumerate(words) if w != "-S" and (i == 0 or words[i - 1] != "-S")]
    return " ".join([*rest, *(f"-S {c}" for c in calls if c)])


def apparmor(want: Mapping[str, Any]) -> Outcome:
    """On where the kernel has it, with profiles loaded and none merely complaining beyond ``want.complaining``."""
    enabled = _text("/sys/module/apparmor/parameters/enabled")
    if not enabled:
        return not_applicable("the kernel has no AppArmor")
    if enabled != "Y":
        return fail("AppArmor is off", "on")
    profiles = _text("/sys/kernel/security/apparmor/profiles").splitlines()
    complaining = [p.rpartition(" (")[0] for p in profiles if p.endswith("(complain)")]
    if not profiles:
        return fail("no profile is loaded", "profiles of the installed packages")
    return of_faults(
        [f"{p} only complains" for p in complaining if p not in want.get("complaining", [])],
        f"{len(profiles)} profiles",
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


CHECKS = {
    "sysctl": sysctl,
    "modules": modules,
    "cmdline": cmdline,
    "audit": audit,
    "audit_locked": audit_locked,
    "apparmor": apparmor,
}
